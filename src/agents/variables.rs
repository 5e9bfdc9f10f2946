//! What the conditions of a rule can name.

use std::fmt;

use crate::customers::{AccountStanding, AccountTier};
use crate::refunds::RefundReason;
use crate::tickets::{TicketCategory, TicketPriority, TicketStatus};

/// The type of a variable.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// Money in minor units of the rule's currency, whole.
    Amount,
    /// A number of something else.
    Number,
    /// True or false.
    Boolean,
    /// A code of ISO 4217.
    Currency,
    /// One of these labels.
    Label(fn() -> Vec<&'static str>),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Amount => f.write_str("minor units"),
            Self::Number => f.write_str("number"),
            Self::Boolean => f.write_str("boolean"),
            Self::Currency => f.write_str("currency"),
            Self::Label(labels) => f.write_str(&labels().join(", ")),
        }
    }
}

/// A variable that every rule can name. Beside these there is `threshold.<name>` for each threshold of the agent, a number.
pub(super) struct Variable {
    pub name: &'static str,
    pub kind: Kind,
}

macro_rules! labels {
    ($enum:ident) => {
        Kind::Label(|| $enum::ALL.iter().map(|value| value.label()).collect())
    };
}

/// What stands before the name of a threshold.
pub(super) const THRESHOLD: &str = "threshold.";

/// The variables; `docs/DECISIONS.md` lists them, and a test compares. They are the fields of `RefundFacts` as JSON.
pub(super) const VARIABLES: &[Variable] = &[
    Variable { name: "amountMinor", kind: Kind::Amount },
    Variable { name: "currency", kind: Kind::Currency },
    Variable { name: "reason", kind: labels!(RefundReason) },
    Variable { name: "hasCharge", kind: Kind::Boolean },
    Variable { name: "requestedBy", kind: Kind::Label(|| vec!["PERSON", "PROGRAM"]) },
    Variable { name: "customer.tier", kind: labels!(AccountTier) },
    Variable { name: "customer.standing", kind: labels!(AccountStanding) },
    Variable { name: "customer.ageDays", kind: Kind::Number },
    Variable { name: "customer.refundsLast365Days", kind: Kind::Number },
    Variable { name: "customer.refundedMinorLast365Days", kind: Kind::Amount },
    Variable { name: "hasTicket", kind: Kind::Boolean },
    Variable { name: "ticket.status", kind: labels!(TicketStatus) },
    Variable { name: "ticket.priority", kind: labels!(TicketPriority) },
    Variable { name: "ticket.category", kind: labels!(TicketCategory) },
    Variable { name: "ticket.ageHours", kind: Kind::Number },
];

/// The variable of this name.
pub(super) fn variable(name: &str) -> Option<&'static Variable> {
    VARIABLES.iter().find(|variable| variable.name == name)
}

/// The known name that is most like this one, of those that are alike at all.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|known| (strsim::damerau_levenshtein(&name.to_lowercase(), &known.to_lowercase()), known))
        .filter(|(distance, _)| *distance <= 3)
        .min()
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_those_of_the_documentation() {
        let page = include_str!("../../docs/DECISIONS.md");
        let listed: Vec<(&str, &str)> = page
            .lines()
            .filter_map(|line| line.strip_prefix("| `"))
            .filter_map(|line| {
                let (name, rest) = line.split_once("` | ")?;
                Some((name, rest.split_once(" |")?.0))
            })
            .filter(|(name, _)| variable(name).is_some())
            .collect();
        let known: Vec<(&str, String)> = VARIABLES.iter().map(|known| (known.name, known.kind.to_string())).collect();
        let known: Vec<(&str, &str)> = known.iter().map(|(name, kind)| (*name, kind.as_str())).collect();
        assert_eq!(listed, known);
    }
}
