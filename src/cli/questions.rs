//! The questions of a first plan, at a terminal.

use std::io::{IsTerminal as _, Write as _};

use dialoguer::theme::ColorfulTheme;
use dialoguer::{MultiSelect, Select};

use super::output::{CommandError, printable};
use crate::adopt::{Answers, Ask, Choice, Plan, Suggestion};

/// Whether somebody is there to answer.
pub(super) fn can_ask() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Shows what was found and asks what was not answered yet. Answers whether there was something to ask.
pub(super) fn ask(suggestion: &Suggestion, answers: &mut Answers) -> Result<bool, CommandError> {
    let open: Vec<_> = suggestion.questions.iter().filter(|question| !matches!(question.ask, Ask::Note)).collect();
    if open.is_empty() {
        return Ok(false);
    }
    if answers.is_empty() {
        write!(std::io::stderr(), "{}", findings(suggestion))?;
    }
    let theme = ColorfulTheme::default();
    for question in open {
        let prompt = printable(&question.text);
        let labels = |choices: &[Choice]| choices.iter().map(|choice| printable(&choice.label)).collect::<Vec<_>>();
        let answer = match &question.ask {
            Ask::Note => continue,
            Ask::One(choices) => {
                let select = Select::with_theme(&theme).with_prompt(prompt).items(labels(choices)).default(0);
                vec![choices[select.interact().map_err(CommandError::failed)?].value.clone()]
            }
            Ask::Some(choices) => {
                let prompt = format!("{prompt} (space marks, enter ends)");
                let select = MultiSelect::with_theme(&theme).with_prompt(prompt).items(labels(choices));
                let marked = select.interact().map_err(CommandError::failed)?;
                marked.into_iter().map(|place| choices[place].value.clone()).collect()
            }
            Ask::Each(of, choices) => {
                writeln!(std::io::stderr(), "{prompt}")?;
                let mut all = Vec::new();
                for (one, first) in of {
                    let select = Select::with_theme(&theme).with_prompt(printable(&one.label)).items(labels(choices));
                    all.push(choices[select.default(*first).interact().map_err(CommandError::failed)?].value.clone());
                }
                all
            }
        };
        answers.insert(question.id.clone(), answer);
        // Another table of organizations makes other questions of the rest.
        if question.id == "organizations" {
            break;
        }
    }
    Ok(true)
}

/// What the plan says so far, as a table.
fn findings(suggestion: &Suggestion) -> String {
    let Ok(plan) = Plan::parse(&suggestion.toml) else { return String::new() };
    let mut text = format!("users          {}\n", plan.users.table);
    if let Some(organizations) = &plan.organizations {
        text += &format!("organizations  {}\n", organizations.table);
    }
    if let Some(memberships) = &plan.memberships {
        text += &format!("memberships    {}\n", memberships.table);
    }
    let width = plan.tables.iter().map(|table| table.table.to_string().chars().count()).max().unwrap_or(0);
    for table in &plan.tables {
        let sources: Vec<String> = table.organization.iter().map(ToString::to_string).collect();
        let sources = if sources.is_empty() { "?".to_owned() } else { sources.join(", or ") };
        text += &format!("{:<width$}  {sources}\n", table.table.to_string());
    }
    printable_lines(&text) + "\n"
}

/// Names of tables are whatever somebody called them.
fn printable_lines(text: &str) -> String {
    text.lines().map(|line| printable(line) + "\n").collect()
}
