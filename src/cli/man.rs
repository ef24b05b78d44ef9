//! `man`: writes the manual pages, from the same words as `--help`.

use std::path::Path;

use anyhow::Context;

use super::VerbEnd;
use super::print::{pass_on, say};

/// Writes a page for each verb into `folder`, or prints the first page.
pub fn man(command: clap::Command, folder: Option<&Path>) -> anyhow::Result<VerbEnd> {
    match folder {
        Some(folder) => {
            let written = std::fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(command, folder));
            written.with_context(|| format!("cannot write manual pages to {}", folder.display()))?;
            say(&format!("the manual pages are in {}", super::print::plain(&folder.display().to_string())))?;
        }
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(command).render(&mut page)?;
            pass_on(&page)?;
        }
    }
    Ok(VerbEnd::Done)
}
