//! Agents and rules in the schema: inputs, payloads, root fields.

use std::sync::Arc;

use async_graphql::{Context, InputObject, MaybeUndefined, Object, SimpleObject};
use serde_json::Value;

use crate::agents::testing::{self, DecisionRuleTestInput, DecisionRuleTestPayload};
use crate::agents::{AgentConfiguration, AgentStatus, AgentType, DecisionAction, DecisionRule};
use crate::error::Result;
use crate::graphql::money::CurrencyCode;
use crate::graphql::mutation::{self, Mutation, UserError};
use crate::graphql::session::Session;
use crate::id::{AgentConfigurationId, DecisionRuleId, marker};

/// The fields of a new agent. Its status is DRAFT.
#[derive(Clone, Debug, InputObject)]
pub struct AgentCreateInput {
    /// Name: 1 to 200 characters.
    pub name: String,
    /// Task of the agent; it never changes.
    #[graphql(name = "type")]
    pub kind: AgentType,
    /// Purpose: at most 5,000 characters.
    pub description: Option<String>,
    /// Model and its settings: a JSON object of at most 16 KiB.
    pub model_settings: Option<Value>,
    /// Thresholds: a JSON object of at most 50 names (a letter, then up to 63 letters, digits and `_`) and numbers (0, or from
    /// 0.000000001 to 10^15 with either sign). Rules read them as `threshold.<name>`.
    pub thresholds: Option<Value>,
    /// Data that the agent may read: at most 50 names of 1 to 100 characters.
    pub data_sources: Option<Vec<String>>,
    /// Idempotency key, 1 to 255 characters: a repeated request with the same key and input returns the agent of the first.
    pub idempotency_key: Option<String>,
}

/// The changes of an agent. Omitted fields stay as they are.
#[derive(Clone, Debug, InputObject)]
pub struct AgentUpdateInput {
    /// The agent. One that is RETIRED stays as it is.
    pub id: AgentConfigurationId,
    /// Name: 1 to 200 characters.
    pub name: Option<String>,
    /// Purpose: at most 5,000 characters; null: none.
    pub description: MaybeUndefined<String>,
    /// Status: DRAFT becomes ACTIVE or RETIRED, ACTIVE becomes PAUSED, PAUSED becomes ACTIVE or RETIRED.
    pub status: Option<AgentStatus>,
    /// Model and its settings, replaced as a whole: a JSON object of at most 16 KiB.
    pub model_settings: Option<Value>,
    /// Thresholds, replaced as a whole: a JSON object of at most 50 names and numbers. One that a rule reads cannot go.
    pub thresholds: Option<Value>,
    /// Data that the agent may read, replaced as a whole: at most 50 names of 1 to 100 characters.
    pub data_sources: Option<Vec<String>>,
    /// The version that the change is based on; another current version gives `VERSION_CONFLICT`.
    pub expected_version: Option<i32>,
}

/// The fields of a new rule.
#[derive(Clone, Debug, InputObject)]
pub struct DecisionRuleCreateInput {
    /// The agent: one of type REFUND that is not RETIRED.
    pub agent_id: AgentConfigurationId,
    /// Name: 1 to 200 characters.
    pub name: String,
    /// Rank, 0 to 1,000,000: the lowest is evaluated first. If it is taken, that rule and those behind it move by one. Behind all
    /// others by default.
    pub rank: Option<i32>,
    /// Condition of the rule (`JsonLogic`), at most 16 KiB, 256 operators and values, 16 levels of operators. The variables and
    /// operators are in docs/DECISIONS.md.
    pub conditions: Value,
    /// Decision.
    pub action: DecisionAction,
    /// The rule matches only requests in this currency. A rule that reads an amount needs one.
    pub currency: Option<CurrencyCode>,
    /// Whether the rule is evaluated; true by default.
    pub enabled: Option<bool>,
    /// Idempotency key, 1 to 255 characters: a repeated request with the same key and input returns the rule of the first.
    pub idempotency_key: Option<String>,
}

/// The changes of a rule. Omitted fields stay as they are.
#[derive(Clone, Debug, InputObject)]
pub struct DecisionRuleUpdateInput {
    /// The rule.
    pub id: DecisionRuleId,
    /// Name: 1 to 200 characters.
    pub name: Option<String>,
    /// Rank, 0 to 1,000,000. If it is taken, that rule and those behind it move by one.
    pub rank: Option<i32>,
    /// Condition of the rule (`JsonLogic`).
    pub conditions: Option<Value>,
    /// Decision.
    pub action: Option<DecisionAction>,
    /// The rule matches only requests in this currency; null: in every currency.
    pub currency: MaybeUndefined<CurrencyCode>,
    /// Whether the rule is evaluated.
    pub enabled: Option<bool>,
    /// The version that the change is based on; another current version gives `VERSION_CONFLICT`.
    pub expected_version: Option<i32>,
}

/// The order of an agent's rules.
#[derive(Clone, Debug, InputObject)]
pub struct DecisionRulesReorderInput {
    /// The agent.
    pub agent_id: AgentConfigurationId,
    /// Every rule of the agent, in the order of evaluation. Their ranks become 10, 20, 30 and so on.
    pub rule_ids: Vec<DecisionRuleId>,
    /// The version of the agent that the change is based on; another current version gives `VERSION_CONFLICT`. Each new order
    /// increments it.
    pub expected_version: Option<i32>,
}

/// The rule to delete.
#[derive(Clone, Debug, InputObject)]
pub struct DecisionRuleDeleteInput {
    /// The rule: one that no refund names.
    pub id: DecisionRuleId,
    /// The version that the change is based on; another current version gives `VERSION_CONFLICT`.
    pub expected_version: Option<i32>,
}

/// The result of `agentCreate`, `agentUpdate` and `decisionRulesReorder`.
#[derive(Debug, SimpleObject)]
pub struct AgentPayload {
    /// The agent; null when there are errors.
    pub agent: Option<Arc<AgentConfiguration>>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The result of `decisionRuleCreate` and `decisionRuleUpdate`.
#[derive(Debug, SimpleObject)]
pub struct DecisionRulePayload {
    /// The rule; null when there are errors.
    pub rule: Option<Arc<DecisionRule>>,
    /// Errors of the input; empty on success. What is wrong with the conditions begins with its place in them (JSON pointer).
    pub user_errors: Vec<UserError>,
}

/// The result of `decisionRuleDelete`.
#[derive(Debug, SimpleObject)]
pub struct DecisionRuleDeletePayload {
    /// The id of the deleted rule; null when there are errors.
    pub rule_id: Option<DecisionRuleId>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

async fn agent<M: Mutation<Row = marker::AgentConfiguration>>(ctx: &Context<'_>, input: M) -> Result<AgentPayload> {
    let ran = mutation::run(ctx, input).await?;
    Ok(AgentPayload { agent: Session::of(ctx)?.load_written(ran.id).await?, user_errors: ran.user_errors })
}

async fn rule<M: Mutation<Row = marker::DecisionRule>>(ctx: &Context<'_>, input: M) -> Result<DecisionRulePayload> {
    let ran = mutation::run(ctx, input).await?;
    Ok(DecisionRulePayload { rule: Session::of(ctx)?.load_written(ran.id).await?, user_errors: ran.user_errors })
}

/// The mutations of the slice.
#[derive(Debug, Default)]
pub struct AgentMutation;

#[Object]
impl AgentMutation {
    /// Creates an agent.
    async fn agent_create(&self, ctx: &Context<'_>, input: AgentCreateInput) -> Result<AgentPayload> {
        agent(ctx, input).await
    }

    /// Updates an agent.
    async fn agent_update(&self, ctx: &Context<'_>, input: AgentUpdateInput) -> Result<AgentPayload> {
        agent(ctx, input).await
    }

    /// Creates a decision rule. It decides from then on, if its agent is ACTIVE; `decisionRuleTest` says before what it would do.
    async fn decision_rule_create(
        &self,
        ctx: &Context<'_>,
        input: DecisionRuleCreateInput,
    ) -> Result<DecisionRulePayload> {
        rule(ctx, input).await
    }

    /// Updates a decision rule.
    async fn decision_rule_update(
        &self,
        ctx: &Context<'_>,
        input: DecisionRuleUpdateInput,
    ) -> Result<DecisionRulePayload> {
        rule(ctx, input).await
    }

    /// Puts all rules of an agent into an order.
    async fn decision_rules_reorder(
        &self,
        ctx: &Context<'_>,
        input: DecisionRulesReorderInput,
    ) -> Result<AgentPayload> {
        agent(ctx, input).await
    }

    /// Deletes a decision rule that has not decided yet. One that has is switched off instead (`enabled: false`).
    async fn decision_rule_delete(
        &self,
        ctx: &Context<'_>,
        input: DecisionRuleDeleteInput,
    ) -> Result<DecisionRuleDeletePayload> {
        let ran = mutation::run(ctx, input).await?;
        Ok(DecisionRuleDeletePayload { rule_id: ran.id, user_errors: ran.user_errors })
    }
}

/// The queries of the slice.
#[derive(Debug, Default)]
pub struct AgentQuery;

#[Object]
impl AgentQuery {
    /// Says what rules would decide, and why, about requests that are made up or about the last real ones. Nothing is changed. For
    /// members and above.
    async fn decision_rule_test(
        &self,
        ctx: &Context<'_>,
        input: DecisionRuleTestInput,
    ) -> Result<DecisionRuleTestPayload> {
        testing::run(ctx, input).await
    }
}
