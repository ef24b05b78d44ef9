//! Exit codes: 0 done, 1 refused or failed, 2 wrong usage (clap's own), 3 no supervisor or launcher, 4 timed out.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use kasm_void::cli::client::{NoAnswer, NoSupervisor};
use kasm_void::cli::open::NoLauncher;
use kasm_void::cli::print::{ReaderLeft, plain};
use kasm_void::cli::{Cli, Ended, run};

fn main() -> ExitCode {
    let ended = run(Cli::parse());
    if let Err(error) = &ended
        && !error.is::<ReaderLeft>()
    {
        let text: Vec<String> = format!("{error:#}").lines().map(plain).collect();
        let _ = writeln!(anstream::stderr(), "kasm-void: {}", text.join("\n")); // nobody is left to tell
    }
    code(&ended)
}

fn code(ended: &anyhow::Result<Ended>) -> ExitCode {
    match ended {
        Ok(Ended::Done) => ExitCode::SUCCESS,
        Ok(Ended::Refused) => ExitCode::from(1),
        Ok(Ended::TimedOut) => ExitCode::from(4),
        Ok(Ended::Ran(code)) => *code,
        Err(error) if error.is::<ReaderLeft>() => ExitCode::SUCCESS,
        Err(error) if error.is::<NoSupervisor>() => ExitCode::from(3),
        Err(error) if error.is::<NoLauncher>() => ExitCode::from(3),
        Err(error) if error.is::<NoAnswer>() => ExitCode::from(4),
        Err(_) => ExitCode::from(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_has_its_code() {
        for (ended, expected) in [
            (Ok(Ended::Done), 0),
            (Ok(Ended::Refused), 1),
            (Ok(Ended::TimedOut), 4),
            (Ok(Ended::Ran(ExitCode::from(7))), 7),
            (Err(ReaderLeft.into()), 0),
            (Err(NoSupervisor("s".into()).into()), 3),
            (Err(NoLauncher(9998).into()), 3),
            (Err(NoAnswer("late".into()).into()), 4),
            (Err(anyhow::anyhow!("refused")), 1),
        ] {
            assert_eq!(code(&ended), ExitCode::from(expected), "{ended:?}");
        }
    }
}
