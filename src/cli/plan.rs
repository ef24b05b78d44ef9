//! `plan`: prints what a reload would do, or what it did.

use super::VerbEnd;
use super::client::Client;
use super::print::{self, BAD, BUSY, DIM, plain, say, say_json};
use crate::model::protocol::{PlanReport, Route};

pub async fn plan(client: &Client, json: bool) -> anyhow::Result<VerbEnd> {
    tell_plan(&client.get(&Route::Plan.path(&[])).await?, json)
}

/// Prints the plan. The result is `Refused` if an app is kept back because of a problem.
pub fn tell_plan(plan: &PlanReport, json: bool) -> anyhow::Result<VerbEnd> {
    if json {
        say_json(plan)?;
    } else {
        say(&plan_in_words(plan))?;
    }
    let kept_back = plan.steps.iter().any(|step| step.sign == '!');
    Ok(if kept_back { VerbEnd::Refused } else { VerbEnd::Done })
}

fn plan_in_words(plan: &PlanReport) -> String {
    let mut lines = Vec::new();
    for step in &plan.steps {
        let style = match step.sign {
            '+' => print::GOOD,
            '~' => BUSY,
            '-' | '!' => BAD,
            _ => DIM,
        };
        lines.push(format!("{style}{}{style:#} {} {}", step.sign, plain(&step.app), plain(&step.text)));
    }
    if plan.unchanged > 0 || plan.steps.is_empty() {
        lines.push(format!("{DIM}={DIM:#} {} unchanged", plan.unchanged));
    }
    let told = |problem: &str| plan.steps.iter().any(|step| step.text.ends_with(problem));
    let untold = plan.problems.iter().filter(|problem| !told(problem));
    lines.extend(untold.map(|problem| format!("{BAD}problem{BAD:#}: {}", plain(problem))));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::protocol::PlanStep;

    #[test]
    fn a_plan_is_read_by_its_signs() {
        let step = |sign, app: &str, text: &str| PlanStep { sign, app: app.into(), text: text.into() };
        let steps = vec![step('~', "a", "restart (args changed)"), step('!', "b", "broken: b.ron:1:1: no")];
        let plan = PlanReport { steps, unchanged: 3, problems: vec!["b.ron:1:1: no".into(), "c.ron: hm".into()] };
        let text = anstream::adapter::strip_str(&plan_in_words(&plan)).to_string();
        assert_eq!(text, "~ a restart (args changed)\n! b broken: b.ron:1:1: no\n= 3 unchanged\nproblem: c.ron: hm");
    }
}
