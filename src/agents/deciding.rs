//! What the rules order about a refund that is asked for.
//!
//! The rules of the active agents of type REFUND, agent by agent in the order of their creation, each in the order of rank: the
//! first that matches decides. What cannot be evaluated is never passed over: the rules behind it might approve what it would have
//! denied, so a person decides.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};

use crate::agents::DecisionAction;
use crate::agents::evaluate::{Data, Rule};
use crate::agents::facts::RefundFacts;
use crate::agents::sql;
use crate::agents::validate::Fault;
use crate::db::TenantTx;
use crate::error::Result;
use crate::id::{AgentConfigurationId, DecisionRuleId, OrganizationId};

/// The version of the form of explanations.
const SCHEMA: i32 = 1;
/// Most bytes of the rules that an explanation lists.
const MAX_LISTED: usize = 24 * 1024;

/// How often rules are read anew when the one that matched was deleted meanwhile.
const ATTEMPTS: usize = 3;

/// What the rules ordered.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The action; `None`: no rule matched, and a person decides as with [`DecisionAction::RequireApproval`].
    pub action: Option<DecisionAction>,
    /// The rule that matched; `None`: none did, or one could not be evaluated and the action is
    /// [`DecisionAction::RequireApproval`] for that reason.
    pub rule: Option<DecisionRuleId>,
    /// JSON for `refunds.decision_explanation`: the facts, and what each rule said. At most 64 KiB, no texts of people.
    pub explanation: Value,
}

/// A rule that may decide.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub agent_id: AgentConfigurationId,
    /// Shared by the rules of an agent.
    pub thresholds: Arc<Map<String, Value>>,
    /// Stored, or a draft that is compiled already.
    pub id: Option<DecisionRuleId>,
    pub draft: Option<Arc<Rule>>,
    pub name: String,
    pub rank: i32,
    /// 0: a draft.
    pub version: i32,
    pub action: DecisionAction,
    /// Requests in other currencies are not its matter.
    pub currency: Option<String>,
    pub conditions: Value,
}

/// Decides by the rules of the active agents of type REFUND: the first that matches.
///
/// # Errors
/// When the database cannot be reached. A rule that cannot be evaluated is no error: a person decides.
pub async fn decide_refund(tx: &mut TenantTx, facts: &RefundFacts, now: DateTime<Utc>) -> Result<Decision> {
    let organization = tx.tenant().organization_id;
    for _ in 0..ATTEMPTS {
        let candidates = sql::candidates(tx).await?;
        let decision = decide(organization, &candidates, facts, now).decision;
        // A refund names its rule, which may have been deleted since it was read.
        match decision.rule {
            Some(id) if !sql::keep(tx, id).await? => {}
            _ => return Ok(decision),
        }
    }
    let action = Some(DecisionAction::RequireApproval);
    let error = "The rules that matched were deleted while they decided.";
    let explanation = json!({
        "schema": SCHEMA, "at": now, "facts": facts.to_value(), "outcome": "ERROR", "action": action, "rules": [], "error": error,
    });
    Ok(Decision { action, rule: None, explanation })
}

/// A decision, and which of the candidates made it.
pub(super) struct Decided {
    pub decision: Decision,
    pub by: Option<usize>,
    /// Whether a rule could not be evaluated.
    pub failed: bool,
}

/// Decides by these rules, in their order. Pure, and bounded by the number of rules and their sizes.
pub(super) fn decide(
    organization: OrganizationId,
    candidates: &[Candidate],
    facts: &RefundFacts,
    now: DateTime<Utc>,
) -> Decided {
    let seen = facts.to_value();
    let mut listed: Vec<Value> = Vec::new();
    let (mut bytes, mut omitted) = (0, 0);
    let (mut by, mut failed) = (None, false);
    // Read once for all rules of an agent.
    let mut data: Option<Data<'_>> = None;
    for (place, candidate) in candidates.iter().enumerate() {
        let mut shown = json!({
            "id": candidate.id.map(|id| id.to_string()),
            "agentId": candidate.agent_id.to_string(),
            "name": candidate.name,
            "rank": candidate.rank,
            "version": candidate.version,
        });
        if data.as_ref().is_none_or(|data| !data.is_with(&candidate.thresholds)) {
            data = Some(Data::new(&seen, &candidate.thresholds));
        }
        let said = match &data {
            Some(data) => ask(organization, candidate, facts, data, &mut shown),
            None => Ok(false),
        };
        shown["matched"] = json!(said == Ok(true));
        let ends = said != Ok(false);
        if let Err(error) = &said {
            shown["error"] = json!(error);
        }
        bytes += shown.to_string().len();
        // What decided is always there.
        if ends || bytes <= MAX_LISTED {
            listed.push(shown);
        } else {
            omitted += 1;
        }
        if ends {
            (by, failed) = (said.is_ok().then_some(place), said.is_err());
            break;
        }
    }
    let action = match by {
        Some(place) => Some(candidates[place].action),
        None if failed => Some(DecisionAction::RequireApproval),
        None => None,
    };
    let outcome = match (by, failed) {
        (Some(_), _) => "RULE",
        (None, true) => "ERROR",
        (None, false) => "NO_RULE",
    };
    let mut explanation = json!({
        "schema": SCHEMA, "at": now, "facts": seen, "outcome": outcome, "action": action, "rules": listed,
    });
    if omitted > 0 {
        explanation["rulesOmitted"] = json!(omitted);
    }
    let rule = by.and_then(|place| candidates[place].id);
    Decided { decision: Decision { action, rule, explanation }, by, failed }
}

/// What a rule says; `shown` gets what an explanation tells of it.
fn ask(
    organization: OrganizationId,
    candidate: &Candidate,
    facts: &RefundFacts,
    data: &Data<'_>,
    shown: &mut Value,
) -> std::result::Result<bool, String> {
    if let Some(currency) = candidate.currency.as_ref().filter(|currency| **currency != facts.currency) {
        shown["values"] = json!({ "currency": facts.currency });
        shown["onlyCurrency"] = json!(currency);
        return Ok(false);
    }
    let rule = match (&candidate.draft, candidate.id) {
        (Some(draft), _) => Arc::clone(draft),
        (None, Some(id)) => {
            Rule::stored((organization, id, candidate.version), &candidate.conditions, &candidate.thresholds)
                .map_err(|faults| first(&faults))?
        }
        (None, None) => return Err("There is no such rule.".to_owned()),
    };
    if rule.reads_amount() && candidate.currency.is_none() {
        return Err("The rule reads an amount and names no currency.".to_owned());
    }
    shown["values"] = rule.values(data);
    let holds = rule.holds(data)?;
    if holds {
        shown["tests"] = rule.tests(data);
    }
    Ok(holds)
}

/// What is wrong, in a line.
fn first(faults: &[Fault]) -> String {
    faults.first().map_or_else(String::new, |fault| format!("{} (at \"{}\")", fault.message, fault.at))
}
