//! Decision rules: making, changing, ordering and removing them.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::access::Action;
use crate::agents::evaluate::Rule;
use crate::agents::graphql::{
    DecisionRuleCreateInput, DecisionRuleDeleteInput, DecisionRuleUpdateInput, DecisionRulesReorderInput,
};
use crate::agents::sql::{self, LockedRule};
use crate::agents::validate::Fault;
use crate::agents::verbs::lock_living;
use crate::agents::{AgentType, DecisionAction};
use crate::graphql::money::{CurrencyCode, is_currency};
use crate::graphql::mutation::{
    Checks, Done, Mutation, UserError, UserErrorCode, VerbError, VerbResult, Work, check_version,
};
use crate::id::{DecisionRuleId, marker};

/// Most characters of a name.
pub(super) const MAX_NAME: usize = 200;
/// Most rules of an organization. A decision looks at all that are in use.
const MAX_RULES: i64 = 100;
/// The highest rank that a client gives, and the distance that the others keep.
const MAX_RANK: i32 = 1_000_000;
const STEP: i32 = 10;

/// Adds what is wrong with conditions, each with its place, as errors at this path inside of the input.
pub(super) fn refuse(errors: &mut Vec<UserError>, path: &[&str], faults: &[Fault]) {
    for fault in faults {
        let message =
            if fault.at.is_empty() { fault.message.clone() } else { format!("`{}`: {}", fault.at, fault.message) };
        let code = if fault.is_size { UserErrorCode::TooLong } else { UserErrorCode::Invalid };
        errors.push(UserError::at(path, code, message));
    }
}

/// Checks and compiles the conditions of a rule in this currency; what is wrong is added at this path inside of the input.
pub(super) fn compile(
    errors: &mut Vec<UserError>,
    path: &[&str],
    conditions: &Value,
    currency: Option<&str>,
    thresholds: &Map<String, Value>,
) -> Option<Rule> {
    let of = |name: &'static str| [path, &[name]].concat();
    let known = errors.len();
    if let Some(currency) = currency.filter(|currency| !is_currency(currency)) {
        let message = format!("\"{currency}\" is no currency of ISO 4217.");
        errors.push(UserError::at(&of("currency"), UserErrorCode::Invalid, message));
    }
    let rule = match Rule::compile(conditions, thresholds) {
        Ok(rule) => rule,
        Err(faults) => {
            refuse(errors, &of("conditions"), &faults);
            return None;
        }
    };
    if rule.reads_amount() && currency.is_none() {
        let message = "A rule that reads `amountMinor` or `customer.refundedMinorLast365Days` names the currency that they are in.";
        errors.push(UserError::at(&of("currency"), UserErrorCode::Blank, message));
    }
    (errors.len() == known).then_some(rule)
}

/// What an audit row says of a rule.
fn shown(
    action: DecisionAction,
    rank: i32,
    currency: Option<&str>,
    enabled: bool,
    conditions: &Value,
    version: i32,
) -> Value {
    json!({ "action": action, "rank": rank, "currency": currency, "enabled": enabled, "conditions": conditions, "version": version })
}

fn shown_of(rule: &LockedRule) -> Value {
    shown(rule.action, rule.rank, rule.currency.as_deref(), rule.enabled, &rule.conditions, rule.version)
}

/// Locks a rule and its agent, in this order of all verbs: the agent first.
async fn lock(work: &mut Work<'_>, id: DecisionRuleId) -> VerbResult<(LockedRule, Map<String, Value>)> {
    let missing = || VerbError::user("id", UserErrorCode::NotFound, "There is no such rule in this organization.");
    let agent_id = sql::agent_of(work.tx, id).await?.ok_or_else(missing)?;
    let agent = lock_living(work, "id", agent_id).await?;
    let rule = sql::lock_rule(work.tx, id).await?.ok_or_else(missing)?;
    Ok((rule, agent.thresholds))
}

impl Mutation for DecisionRuleCreateInput {
    type Row = marker::DecisionRule;
    const FIELD: &'static str = "decisionRuleCreate";
    const ACTION: Action = Action::AgentWrite;
    const AUDIT: &'static str = "decision_rule.create";

    fn idempotency_key(&self) -> Option<&str> {
        self.idempotency_key.as_deref()
    }

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let mut checks = Checks::default();
        let name = checks.required("name", &self.name, MAX_NAME);
        checks.within("rank", self.rank, 0..=MAX_RANK);
        checks.finish()?;
        let agent = lock_living(work, "agentId", self.agent_id).await?;
        if agent.kind != AgentType::Refund {
            let message = "Only agents of type REFUND decide by rules.";
            return Err(VerbError::user("agentId", UserErrorCode::Invalid, message));
        }
        let currency = self.currency.as_ref().map(CurrencyCode::as_str);
        let mut errors = Vec::new();
        compile(&mut errors, &[], &self.conditions, currency, &agent.thresholds);
        if !errors.is_empty() {
            return Err(VerbError::User(errors));
        }
        if sql::count_rules(work.tx).await? >= MAX_RULES {
            let message = format!("An organization has at most {MAX_RULES} rules: delete one first.");
            return Err(VerbError::of_input(UserErrorCode::TooLong, message));
        }
        let (rank, moved) = if let Some(rank) = self.rank {
            (rank, sql::make_room(work.tx, self.agent_id, rank).await?)
        } else {
            let last = sql::rules_of(work.tx, self.agent_id).await?.last().map_or(0, |(_, _, rank, _)| *rank);
            (last.saturating_add(STEP), 0)
        };
        let (id, enabled) = (work.new_id(), self.enabled.unwrap_or(true));
        sqlx::query!(
            "insert into tenantry.decision_rules (organization_id, id, agent_id, name, rank, conditions, action, currency, enabled, created_at, updated_at)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10)",
            work.tenant().organization_id as _,
            id as _,
            self.agent_id as _,
            name,
            rank,
            self.conditions,
            self.action as _,
            currency,
            enabled,
            work.now
        )
        .execute(work.tx.conn())
        .await?;
        let after = shown(self.action, rank, currency, enabled, &self.conditions, 1);
        let audit = json!({ "agentId": self.agent_id.to_string(), "after": after, "moved": moved });
        Ok(Done { id, audit, event: None })
    }
}

impl Mutation for DecisionRuleUpdateInput {
    type Row = marker::DecisionRule;
    const FIELD: &'static str = "decisionRuleUpdate";
    const ACTION: Action = Action::AgentWrite;
    const AUDIT: &'static str = "decision_rule.update";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let mut checks = Checks::default();
        let name = self.name.as_deref().map(|name| checks.required("name", name, MAX_NAME));
        checks.within("rank", self.rank, 0..=MAX_RANK);
        checks.finish()?;
        let (before, thresholds) = lock(work, self.id).await?;
        check_version(self.expected_version, before.version)?;
        let currency = match &self.currency {
            given if given.is_undefined() => before.currency.clone(),
            given => given.value().map(|currency| currency.as_str().to_owned()),
        };
        let enabled = self.enabled.unwrap_or(before.enabled);
        let conditions = self.conditions.as_ref().unwrap_or(&before.conditions);
        // Whatever is wrong with a rule that was written by hand, it can be switched off.
        if self.conditions.is_some() || currency != before.currency || (enabled && !before.enabled) {
            let mut errors = Vec::new();
            compile(&mut errors, &[], conditions, currency.as_deref(), &thresholds);
            if !errors.is_empty() {
                return Err(VerbError::User(errors));
            }
        }
        let rank = self.rank.unwrap_or(before.rank);
        let moved =
            if rank == before.rank { 0 } else { sql::move_rule(work.tx, before.agent_id, self.id, rank).await? };
        let action = self.action.unwrap_or(before.action);
        sqlx::query!(
            "update tenantry.decision_rules
                set name = coalesce($3, name), conditions = $4, action = $5, currency = $6, enabled = $7, version = version + 1
              where organization_id = $1 and id = $2",
            work.tenant().organization_id as _,
            self.id as _,
            name,
            conditions,
            action as _,
            currency,
            enabled
        )
        .execute(work.tx.conn())
        .await?;
        let after = shown(action, rank, currency.as_deref(), enabled, conditions, before.version + 1);
        let audit = json!({ "before": shown_of(&before), "after": after, "moved": moved });
        Ok(Done { id: self.id, audit, event: None })
    }
}

impl Mutation for DecisionRulesReorderInput {
    type Row = marker::AgentConfiguration;
    const FIELD: &'static str = "decisionRulesReorder";
    const ACTION: Action = Action::AgentWrite;
    const AUDIT: &'static str = "decision_rule.reorder";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let agent = lock_living(work, "agentId", self.agent_id).await?;
        check_version(self.expected_version, agent.version)?;
        let rules = sql::rules_of(work.tx, self.agent_id).await?;
        let known: BTreeSet<_> = rules.iter().map(|(id, ..)| id.uuid()).collect();
        let mut named = BTreeSet::new();
        let mut errors = Vec::new();
        for (place, id) in self.rule_ids.iter().enumerate().take(rules.len() + 1) {
            let (code, message) = match (known.contains(&id.uuid()), named.insert(id.uuid())) {
                (true, true) => continue,
                (true, false) => (UserErrorCode::Conflict, "The rule is named twice."),
                (false, _) => (UserErrorCode::NotFound, "The agent has no such rule."),
            };
            errors.push(UserError::at(&["ruleIds", &place.to_string()], code, message));
        }
        if errors.is_empty() && self.rule_ids.len() != rules.len() {
            let message = format!(
                "`ruleIds` takes every rule of the agent, switched off or not: it has {}, these are {}.",
                rules.len(),
                self.rule_ids.len()
            );
            errors.push(UserError::new("ruleIds", UserErrorCode::Invalid, message));
        }
        if !errors.is_empty() {
            return Err(VerbError::User(errors));
        }
        let moved = sql::reorder(work.tx, self.agent_id, &self.rule_ids, STEP).await?;
        sql::touch_agent(work.tx, self.agent_id).await?;
        let order = |ids: &mut dyn Iterator<Item = DecisionRuleId>| ids.map(|id| id.to_string()).collect::<Vec<_>>();
        let audit = json!({
            "before": order(&mut rules.iter().map(|(id, ..)| *id)),
            "after": order(&mut self.rule_ids.iter().copied()),
            "moved": moved,
            "version": agent.version + 1,
        });
        Ok(Done { id: self.agent_id, audit, event: None })
    }
}

impl Mutation for DecisionRuleDeleteInput {
    type Row = marker::DecisionRule;
    const FIELD: &'static str = "decisionRuleDelete";
    const ACTION: Action = Action::AgentWrite;
    const AUDIT: &'static str = "decision_rule.delete";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let (before, _) = lock(work, self.id).await?;
        check_version(self.expected_version, before.version)?;
        if sql::has_decided(work.tx, self.id).await? {
            let message =
                "The rule has decided about refunds, which name it: switch it off instead (`enabled: false`).";
            return Err(VerbError::user("id", UserErrorCode::Conflict, message));
        }
        sqlx::query!(
            "delete from tenantry.decision_rules where organization_id = $1 and id = $2",
            work.tenant().organization_id as _,
            self.id as _
        )
        .execute(work.tx.conn())
        .await?;
        let audit = json!({ "agentId": before.agent_id.to_string(), "name": before.name, "before": shown_of(&before) });
        Ok(Done { id: self.id, audit, event: None })
    }
}
