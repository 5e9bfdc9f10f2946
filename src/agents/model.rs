//! The types of agents and rules.

use crate::pg_enum;

pg_enum! {
    /// The task of an agent.
    pub enum AgentType("tenantry.agent_type", AgentTypeFilter) {
        /// Classifies tickets.
        Triage = "TRIAGE",
        /// Answers tickets.
        Support = "SUPPORT",
        /// Decides about refunds.
        Refund = "REFUND",
        /// Reviews answers.
        Quality = "QUALITY",
    }
}

pg_enum! {
    /// The status of an agent.
    pub enum AgentStatus("tenantry.agent_status", AgentStatusFilter) {
        /// Not in use yet.
        Draft = "DRAFT",
        /// In use.
        Active = "ACTIVE",
        /// Stopped temporarily.
        Paused = "PAUSED",
        /// Stopped permanently.
        Retired = "RETIRED",
    }
}

pg_enum! {
    /// The decision of a rule.
    pub enum DecisionAction("tenantry.decision_action", DecisionActionFilter) {
        /// Approves without review.
        AutoApprove = "AUTO_APPROVE",
        /// Requires approval by a person.
        RequireApproval = "REQUIRE_APPROVAL",
        /// Escalates to a person of higher rank.
        Escalate = "ESCALATE",
        /// Denies.
        Deny = "DENY",
    }
}
