//! Exit codes: 0 done, 1 refused or failed, 2 wrong usage (clap's own), 3 no supervisor or launcher, 4 timed out.

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use clap_complete::CompleteEnv;
use kasm_void::cli::client::{NoAnswer, NoSupervisor};
use kasm_void::cli::open::NoLauncher;
use kasm_void::cli::print::{ReaderLeft, complain, plain};
use kasm_void::cli::{Cli, VerbEnd, complete, run};
use kasm_void::model::plain::styled;

fn main() -> ExitCode {
    // Ends here when a shell asks for words.
    CompleteEnv::with_factory(Cli::command).var(complete::VARIABLE).complete();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misused(&error),
    };
    let ended = run(cli);
    if let Err(error) = &ended
        && !error.is::<ReaderLeft>()
    {
        let text: Vec<String> = format!("{error:#}").lines().map(plain).collect();
        complain(&text.join("\n"));
    }
    code(&ended)
}

/// Prints help, the version or a usage error, and returns clap's exit code.
fn misused(error: &clap::Error) -> ExitCode {
    use std::io::Write;
    let text = styled(&error.render().ansi().to_string());
    let _ = match error.use_stderr() {
        true => write!(anstream::stderr(), "{text}"),
        false => write!(anstream::stdout(), "{text}"),
    }; // a failed write cannot be reported anywhere
    ExitCode::from(error.exit_code() as u8)
}

fn code(ended: &anyhow::Result<VerbEnd>) -> ExitCode {
    match ended {
        Ok(VerbEnd::Done) => ExitCode::SUCCESS,
        Ok(VerbEnd::Refused) => ExitCode::from(1),
        Ok(VerbEnd::TimedOut) => ExitCode::from(4),
        Ok(VerbEnd::Ran(code)) => *code,
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
            (Ok(VerbEnd::Done), 0),
            (Ok(VerbEnd::Refused), 1),
            (Ok(VerbEnd::TimedOut), 4),
            (Ok(VerbEnd::Ran(ExitCode::from(7))), 7),
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
