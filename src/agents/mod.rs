//! AI agents: their configurations and the rules by which they decide.

mod deciding;
mod evaluate;
mod facts;
mod graphql;
mod model;
mod rules;
mod sql;
mod testing;
mod validate;
mod variables;
mod verbs;

use chrono::{DateTime, Utc};

pub use deciding::{Decision, decide_refund};
pub use facts::{RefundFacts, RefundRequest, Requester, TicketFacts};
pub use graphql::{
    AgentCreateInput, AgentMutation, AgentQuery, AgentUpdateInput, DecisionRuleCreateInput, DecisionRuleDeleteInput,
    DecisionRuleUpdateInput, DecisionRulesReorderInput,
};
pub use model::{AgentStatus, AgentStatusFilter, AgentType, AgentTypeFilter, DecisionAction, DecisionActionFilter};

use crate::graphql::filter::{BooleanFilter, DateTimeFilter, IntFilter};
use crate::graphql::mutation::MutationInfo;
use crate::id::{AgentConfigurationId, DecisionRuleId};
use crate::{entity, listing, relations};

entity! {
    /// The configuration of an AI agent.
    #[graphql(complex)]
    pub struct AgentConfiguration("agent_configurations", read by AgentRead) {
        /// Unique id.
        pub id: AgentConfigurationId,
        /// Name.
        pub name: String,
        /// Purpose.
        pub description: Option<String>,
        /// Task of the agent.
        #[graphql(name = "type")]
        pub kind: AgentType = "type",
        /// Status.
        pub status: AgentStatus,
        /// Model and its settings.
        pub model_settings: serde_json::Value,
        /// Thresholds by name: numbers that rules read as `threshold.<name>`.
        pub thresholds: serde_json::Value,
        /// Data that the agent may read.
        pub data_sources: serde_json::Value,
        /// Version; incremented by every change.
        pub version: i32,
        /// Time of creation.
        pub created_at: DateTime<Utc>,
        /// Time of the last change.
        pub updated_at: DateTime<Utc>,
    }
}

listing! {
    AgentConfiguration: AgentConfigurationFilter, AgentConfigurationOrder by AgentConfigurationOrderField,
        default CreatedAt Asc;
    /// Task of the agent.
    #[graphql(name = "type")]
    kind: AgentTypeFilter = "type";
    /// Status.
    status: AgentStatusFilter;
    /// Time of creation.
    created_at: DateTimeFilter, CreatedAt;
}

relations! {
    AgentConfiguration {
        /// The agent's decision rules, in the order of evaluation.
        decision_rules -> DecisionRule by "t.agent_id";
    }
}

entity! {
    /// A decision rule of an agent of type REFUND. The first rule that matches, in order of rank, decides.
    #[graphql(complex)]
    pub struct DecisionRule("decision_rules", read by AgentRead) {
        /// Unique id.
        pub id: DecisionRuleId,
        /// The agent.
        #[graphql(skip)]
        pub agent_id: AgentConfigurationId,
        /// Name.
        pub name: String,
        /// Rank, unique among the rules of the agent; the lowest is evaluated first.
        pub rank: i32,
        /// Condition of the rule (`JsonLogic`).
        pub conditions: serde_json::Value,
        /// The rule matches only requests in this currency (ISO 4217); null: in every currency.
        pub currency: Option<String>,
        /// Decision.
        pub action: DecisionAction,
        /// Whether the rule is evaluated.
        pub enabled: bool,
        /// Version; incremented by every change.
        pub version: i32,
        /// Time of creation.
        pub created_at: DateTime<Utc>,
        /// Time of the last change.
        pub updated_at: DateTime<Utc>,
    }
}

listing! {
    DecisionRule: DecisionRuleFilter, DecisionRuleOrder by DecisionRuleOrderField, default Rank Asc;
    /// Decision.
    action: DecisionActionFilter;
    /// Whether the rule is evaluated.
    enabled: BooleanFilter;
    /// Rank.
    rank: IntFilter, Rank;
    /// Time of creation.
    created_at: DateTimeFilter, CreatedAt;
}

relations! {
    DecisionRule {}
    one {
        /// The agent.
        agent -> AgentConfiguration! by agent_id;
    }
}

/// The mutations of the slice.
pub const MUTATIONS: &[MutationInfo] = &[
    MutationInfo::of::<AgentCreateInput>(),
    MutationInfo::of::<AgentUpdateInput>(),
    MutationInfo::of::<DecisionRuleCreateInput>(),
    MutationInfo::of::<DecisionRuleUpdateInput>(),
    MutationInfo::of::<DecisionRulesReorderInput>(),
    MutationInfo::of::<DecisionRuleDeleteInput>(),
];
