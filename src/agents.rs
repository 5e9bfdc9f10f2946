//! AI agents: their configurations and the rules by which they decide.

use std::sync::Arc;

use async_graphql::Context;
use chrono::{DateTime, Utc};

use crate::error::{Error, Result};
use crate::graphql::filter::{BooleanFilter, DateTimeFilter, IntFilter};
use crate::graphql::session::Session;
use crate::id::{AgentConfigurationId, DecisionRuleId};
use crate::{connections, entity, listing, pg_enum};

pg_enum! {
    /// What an agent does.
    pub enum AgentType("tenantry.agent_type", AgentTypeFilter) {
        /// Sorts tickets.
        Triage = "TRIAGE",
        /// Answers them.
        Support = "SUPPORT",
        /// Decides about refunds.
        Refund = "REFUND",
        /// Looks at answers.
        Quality = "QUALITY",
    }
}

pg_enum! {
    /// The state of an agent.
    pub enum AgentStatus("tenantry.agent_status", AgentStatusFilter) {
        /// Being written.
        Draft = "DRAFT",
        /// At work.
        Active = "ACTIVE",
        /// Stopped for now.
        Paused = "PAUSED",
        /// Stopped for good.
        Retired = "RETIRED",
    }
}

pg_enum! {
    /// What a rule decides.
    pub enum DecisionAction("tenantry.decision_action", DecisionActionFilter) {
        /// Granted without a person.
        AutoApprove = "AUTO_APPROVE",
        /// A person must decide.
        RequireApproval = "REQUIRE_APPROVAL",
        /// Someone of higher rank must decide.
        Escalate = "ESCALATE",
        /// Not granted.
        Deny = "DENY",
    }
}

entity! {
    /// How an AI agent works.
    #[graphql(complex)]
    pub struct AgentConfiguration("agent_configurations", read by AgentRead) {
        /// The id.
        pub id: AgentConfigurationId,
        /// The name.
        pub name: String,
        /// What it is for.
        pub description: Option<String>,
        /// What it does.
        #[graphql(name = "type")]
        pub kind: AgentType = "type",
        /// The state.
        pub status: AgentStatus,
        /// The model and its settings.
        pub model_settings: serde_json::Value,
        /// From which values on it acts.
        pub thresholds: serde_json::Value,
        /// What it may read.
        pub data_sources: serde_json::Value,
        /// Grows by one with every change.
        pub version: i32,
        /// When it was made.
        pub created_at: DateTime<Utc>,
        /// When it last changed.
        pub updated_at: DateTime<Utc>,
    }
}

listing! {
    AgentConfiguration: AgentConfigurationFilter, AgentConfigurationOrder by AgentConfigurationOrderField,
        default CreatedAt Asc;
    /// What it does.
    #[graphql(name = "type")]
    kind: AgentTypeFilter = "type";
    /// State.
    status: AgentStatusFilter;
    /// Moment it was made.
    created_at: DateTimeFilter, CreatedAt;
}

connections! {
    AgentConfiguration {
        /// The rules by which it decides, in the order in which they are tried.
        decision_rules -> DecisionRule by "t.agent_id";
    }
}

entity! {
    /// A rule by which an agent decides; the first that holds, in order of rank, decides.
    #[graphql(complex)]
    pub struct DecisionRule("decision_rules", read by AgentRead) {
        /// The id.
        pub id: DecisionRuleId,
        /// The agent.
        #[graphql(skip)]
        pub agent_id: AgentConfigurationId,
        /// The name.
        pub name: String,
        /// Its place in the order; smaller is tried first.
        pub rank: i32,
        /// When it holds: a rule of `JsonLogic`.
        pub conditions: serde_json::Value,
        /// What it decides.
        pub action: DecisionAction,
        /// Whether it is tried at all.
        pub enabled: bool,
        /// Grows by one with every change.
        pub version: i32,
        /// When it was made.
        pub created_at: DateTime<Utc>,
        /// When it last changed.
        pub updated_at: DateTime<Utc>,
    }
}

listing! {
    DecisionRule: DecisionRuleFilter, DecisionRuleOrder by DecisionRuleOrderField, default Rank Asc;
    /// What it decides.
    action: DecisionActionFilter;
    /// Whether it is tried.
    enabled: BooleanFilter;
    /// Place in the order.
    rank: IntFilter, Rank;
    /// Time of creation.
    created_at: DateTimeFilter, CreatedAt;
}

#[async_graphql::ComplexObject]
impl DecisionRule {
    /// The agent.
    async fn agent(&self, ctx: &Context<'_>) -> Result<Arc<AgentConfiguration>> {
        Session::of(ctx)?.load(self.agent_id).await?.ok_or_else(|| Error::internal("a rule without its agent"))
    }
}
