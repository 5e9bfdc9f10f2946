//! Statements of agents and rules.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::agents::deciding::Candidate;
use crate::agents::{AgentStatus, AgentType, DecisionAction};
use crate::db::TenantTx;
use crate::error::Result;
use crate::id::{AgentConfigurationId, DecisionRuleId};

/// The rules that decide about refunds now, in their order.
pub(super) async fn candidates(tx: &mut TenantTx) -> Result<Vec<Candidate>> {
    let rows = sqlx::query!(
        r#"select a.id as "agent_id: AgentConfigurationId", a.thresholds, r.id as "id: DecisionRuleId", r.name, r.rank, r.version,
                  r.action as "action: DecisionAction", r.currency, r.conditions
             from tenantry.agent_configurations a
             join tenantry.decision_rules r on r.organization_id = a.organization_id and r.agent_id = a.id
            where a.organization_id = $1 and a.type = 'REFUND' and a.status = 'ACTIVE' and r.enabled
            order by a.created_at, a.id, r.rank"#,
        tx.tenant().organization_id as _
    )
    .fetch_all(tx.conn())
    .await?;
    let mut candidates: Vec<Candidate> = Vec::with_capacity(rows.len());
    for row in rows {
        let thresholds = shared(candidates.last(), row.agent_id, row.thresholds);
        candidates.push(Candidate {
            agent_id: row.agent_id,
            thresholds,
            id: Some(row.id),
            draft: None,
            name: row.name,
            rank: row.rank,
            version: row.version,
            action: row.action,
            currency: row.currency,
            conditions: row.conditions,
        });
    }
    Ok(candidates)
}

/// The thresholds of a rule's agent: those of the rule before it, where that is of the same.
pub(super) fn shared(
    before: Option<&Candidate>,
    agent_id: AgentConfigurationId,
    thresholds: Value,
) -> Arc<Map<String, Value>> {
    match before.filter(|before| before.agent_id == agent_id) {
        Some(before) => Arc::clone(&before.thresholds),
        None => Arc::new(object(thresholds)),
    }
}

/// The object, or none of its fields where something else was written by hand.
pub(super) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}

/// An agent as a verb finds it.
#[derive(Debug)]
pub(super) struct LockedAgent {
    pub kind: AgentType,
    pub status: AgentStatus,
    pub thresholds: Map<String, Value>,
    pub version: i32,
}

/// Locks an agent: whoever changes it, its rules or their order goes alone.
pub(super) async fn lock_agent(tx: &mut TenantTx, id: AgentConfigurationId) -> Result<Option<LockedAgent>> {
    let row = sqlx::query!(
        r#"select type as "kind: AgentType", status as "status: AgentStatus", thresholds, version
             from tenantry.agent_configurations where organization_id = $1 and id = $2 for no key update"#,
        tx.tenant().organization_id as _,
        id as _
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(row.map(|row| LockedAgent {
        kind: row.kind,
        status: row.status,
        thresholds: object(row.thresholds),
        version: row.version,
    }))
}

/// A rule as a verb finds it.
#[derive(Debug)]
pub(super) struct LockedRule {
    pub agent_id: AgentConfigurationId,
    pub name: String,
    pub rank: i32,
    pub conditions: Value,
    pub action: DecisionAction,
    pub currency: Option<String>,
    pub enabled: bool,
    pub version: i32,
}

/// The agent of a rule; a rule never changes it.
pub(super) async fn agent_of(tx: &mut TenantTx, id: DecisionRuleId) -> Result<Option<AgentConfigurationId>> {
    Ok(sqlx::query_scalar!(
        r#"select agent_id as "id: AgentConfigurationId" from tenantry.decision_rules where organization_id = $1 and id = $2"#,
        tx.tenant().organization_id as _,
        id as _
    )
    .fetch_optional(tx.conn())
    .await?)
}

/// Locks a rule, whose agent is locked.
pub(super) async fn lock_rule(tx: &mut TenantTx, id: DecisionRuleId) -> Result<Option<LockedRule>> {
    Ok(sqlx::query_as!(
        LockedRule,
        r#"select agent_id as "agent_id: AgentConfigurationId", name, rank, conditions, action as "action: DecisionAction", currency,
                  enabled, version
             from tenantry.decision_rules where organization_id = $1 and id = $2 for update"#,
        tx.tenant().organization_id as _,
        id as _
    )
    .fetch_optional(tx.conn())
    .await?)
}

/// The rules of an agent with their conditions, in the order of rank.
pub(super) async fn rules_of(
    tx: &mut TenantTx,
    agent_id: AgentConfigurationId,
) -> Result<Vec<(DecisionRuleId, String, i32, Value)>> {
    let rows = sqlx::query!(
        r#"select id as "id: DecisionRuleId", name, rank, conditions from tenantry.decision_rules
            where organization_id = $1 and agent_id = $2 order by rank"#,
        tx.tenant().organization_id as _,
        agent_id as _
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows.into_iter().map(|row| (row.id, row.name, row.rank, row.conditions)).collect())
}

/// How many rules the organization has.
pub(super) async fn count_rules(tx: &mut TenantTx) -> Result<i64> {
    Ok(sqlx::query_scalar!(
        r#"select count(*) as "count!" from tenantry.decision_rules where organization_id = $1"#,
        tx.tenant().organization_id as _
    )
    .fetch_one(tx.conn())
    .await?)
}

/// Makes room at a rank: if it is taken, its rule and those behind it move by one. How many moved.
pub(super) async fn make_room(tx: &mut TenantTx, agent_id: AgentConfigurationId, rank: i32) -> Result<u64> {
    let moved = sqlx::query!(
        "update tenantry.decision_rules set rank = rank + 1, version = version + 1
          where organization_id = $1 and agent_id = $2 and rank >= $3
            and exists (select from tenantry.decision_rules r where r.organization_id = $1 and r.agent_id = $2 and r.rank = $3)",
        tx.tenant().organization_id as _,
        agent_id as _,
        rank
    )
    .execute(tx.conn())
    .await?;
    Ok(moved.rows_affected())
}

/// Moves a rule to a rank: if that is taken, its rule and those behind it move by one. How many others moved.
pub(super) async fn move_rule(
    tx: &mut TenantTx,
    agent_id: AgentConfigurationId,
    id: DecisionRuleId,
    rank: i32,
) -> Result<u64> {
    // One statement: the rank that the rule leaves may be the one that another goes to.
    let moved = sqlx::query!(
        "update tenantry.decision_rules
            set rank = case when id = $3 then $4 else rank + 1 end, version = case when id = $3 then version else version + 1 end
          where organization_id = $1 and agent_id = $2
            and (id = $3 or (rank >= $4 and exists (select from tenantry.decision_rules r
                                                     where r.organization_id = $1 and r.agent_id = $2 and r.rank = $4 and r.id <> $3)))",
        tx.tenant().organization_id as _,
        agent_id as _,
        id as _,
        rank
    )
    .execute(tx.conn())
    .await?;
    Ok(moved.rows_affected().saturating_sub(1))
}

/// Gives the rules of an agent these places. How many moved; the others keep their version.
pub(super) async fn reorder(
    tx: &mut TenantTx,
    agent_id: AgentConfigurationId,
    ids: &[DecisionRuleId],
    step: i32,
) -> Result<u64> {
    let ids: Vec<uuid::Uuid> = ids.iter().map(|id| id.uuid()).collect();
    let moved = sqlx::query!(
        "update tenantry.decision_rules r set rank = o.place::integer * $4, version = r.version + 1
           from unnest($3::uuid[]) with ordinality as o(id, place)
          where r.organization_id = $1 and r.agent_id = $2 and r.id = o.id and r.rank <> o.place::integer * $4",
        tx.tenant().organization_id as _,
        agent_id as _,
        &ids,
        step
    )
    .execute(tx.conn())
    .await?;
    Ok(moved.rows_affected())
}

/// Whether a refund names this rule. The rule is locked, so that none comes to.
pub(super) async fn has_decided(tx: &mut TenantTx, id: DecisionRuleId) -> Result<bool> {
    Ok(sqlx::query_scalar!(
        r#"select exists (select from tenantry.refunds where organization_id = $1 and decision_rule_id = $2) as "has!""#,
        tx.tenant().organization_id as _,
        id as _
    )
    .fetch_one(tx.conn())
    .await?)
}

/// Keeps a rule from being deleted until the transaction ends; whether it is still there.
pub(super) async fn keep(tx: &mut TenantTx, id: DecisionRuleId) -> Result<bool> {
    let found = sqlx::query_scalar!(
        r#"select 1 as "one!" from tenantry.decision_rules where organization_id = $1 and id = $2 for key share"#,
        tx.tenant().organization_id as _,
        id as _
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(found.is_some())
}

/// Counts a change of the order of an agent's rules as one of the agent.
pub(super) async fn touch_agent(tx: &mut TenantTx, id: AgentConfigurationId) -> Result<()> {
    sqlx::query!(
        "update tenantry.agent_configurations set version = version + 1 where organization_id = $1 and id = $2",
        tx.tenant().organization_id as _,
        id as _
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
