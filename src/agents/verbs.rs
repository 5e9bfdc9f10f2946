//! Agents: what they are set up with, and from which status they go to which.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::access::Action;
use crate::agents::graphql::{AgentCreateInput, AgentUpdateInput};
use crate::agents::validate::{check, is_number, is_threshold_name};
use crate::agents::{AgentStatus, sql};
use crate::graphql::mutation::{Checks, Done, Mutation, UserErrorCode, VerbError, VerbResult, Work, check_version};
use crate::id::{AgentConfigurationId, marker};
use crate::sql_enum::refusal;

/// Most characters of a name and of a description.
const MAX_NAME: usize = 200;
const MAX_DESCRIPTION: usize = 5_000;
/// Most agents of an organization, thresholds and data sources of an agent, characters of a data source.
const MAX_AGENTS: i64 = 50;
const MAX_THRESHOLDS: usize = 50;
const MAX_SOURCES: usize = 50;
const MAX_SOURCE: usize = 100;
/// Most bytes of the model's settings.
const MAX_SETTINGS: usize = 16 * 1024;

/// The statuses that an agent can go to.
const fn next(status: AgentStatus) -> &'static [AgentStatus] {
    match status {
        AgentStatus::Draft | AgentStatus::Paused => &[AgentStatus::Active, AgentStatus::Retired],
        AgentStatus::Active => &[AgentStatus::Paused],
        AgentStatus::Retired => &[],
    }
}

/// No such agent here, as the error of this field.
pub(super) fn no_such_agent(field: &str) -> VerbError {
    VerbError::user(field, UserErrorCode::NotFound, "There is no such agent in this organization.")
}

/// Locks an agent that may still be changed.
pub(super) async fn lock_living(
    work: &mut Work<'_>,
    field: &str,
    id: AgentConfigurationId,
) -> VerbResult<sql::LockedAgent> {
    let agent = sql::lock_agent(work.tx, id).await?.ok_or_else(|| no_such_agent(field))?;
    if agent.status == AgentStatus::Retired {
        let message = "The agent is RETIRED: it and its rules stay as they are.";
        return Err(VerbError::user(field, UserErrorCode::InvalidTransition, message));
    }
    Ok(agent)
}

/// Checks thresholds: an object of names and numbers.
pub(super) fn check_thresholds(checks: &mut Checks, field: &str, value: &Value) -> Map<String, Value> {
    let Value::Object(thresholds) = value else {
        checks.refuse(field, UserErrorCode::Invalid, format!("`{field}` must be a JSON object."));
        return Map::new();
    };
    if thresholds.len() > MAX_THRESHOLDS {
        let message = format!("An agent has at most {MAX_THRESHOLDS} thresholds; these are {}.", thresholds.len());
        checks.refuse(field, UserErrorCode::TooLong, message);
        return Map::new();
    }
    for (name, value) in thresholds {
        if !is_threshold_name(name) {
            let message = "The name of a threshold is a letter and up to 63 letters, digits and `_`, all ASCII.";
            checks.refuse(field, UserErrorCode::Invalid, message);
        } else if !matches!(value, Value::Number(number) if is_number(number)) {
            let range = "0, or from 0.000000001 to 1000000000000000 with either sign";
            checks.refuse(field, UserErrorCode::Invalid, format!("The threshold `{name}` takes a number: {range}."));
        }
    }
    thresholds.clone()
}

/// Checks data sources: names, without repetition.
fn check_sources(checks: &mut Checks, sources: &[String]) -> Vec<String> {
    if sources.len() > MAX_SOURCES {
        let message = format!("An agent has at most {MAX_SOURCES} data sources; these are {}.", sources.len());
        checks.refuse("dataSources", UserErrorCode::TooLong, message);
        return Vec::new();
    }
    let mut named: Vec<String> = Vec::new();
    for source in sources {
        let source = checks.required("dataSources", source, MAX_SOURCE);
        if named.contains(&source) {
            checks.refuse("dataSources", UserErrorCode::Conflict, "A data source is named twice.");
        }
        named.push(source);
    }
    named
}

fn check_description(checks: &mut Checks, description: Option<&str>) -> Option<String> {
    let description = checks.text("description", description?.trim(), MAX_DESCRIPTION);
    Some(description).filter(|description| !description.is_empty())
}

impl Mutation for AgentCreateInput {
    type Row = marker::AgentConfiguration;
    const FIELD: &'static str = "agentCreate";
    const ACTION: Action = Action::AgentWrite;
    const AUDIT: &'static str = "agent.create";

    fn idempotency_key(&self) -> Option<&str> {
        self.idempotency_key.as_deref()
    }

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let mut checks = Checks::default();
        let name = checks.required("name", &self.name, MAX_NAME);
        let description = check_description(&mut checks, self.description.as_deref());
        checks.object("modelSettings", self.model_settings.as_ref(), MAX_SETTINGS);
        let thresholds = match &self.thresholds {
            Some(thresholds) => check_thresholds(&mut checks, "thresholds", thresholds),
            None => Map::new(),
        };
        let sources = check_sources(&mut checks, self.data_sources.as_deref().unwrap_or_default());
        checks.finish()?;
        let organization = work.tenant().organization_id;
        let known = sqlx::query_scalar!(
            r#"select count(*) as "count!" from tenantry.agent_configurations where organization_id = $1"#,
            organization as _
        )
        .fetch_one(work.tx.conn())
        .await?;
        if known >= MAX_AGENTS {
            let message = format!("An organization has at most {MAX_AGENTS} agents.");
            return Err(VerbError::of_input(UserErrorCode::TooLong, message));
        }
        let id = work.new_id();
        sqlx::query!(
            "insert into tenantry.agent_configurations (organization_id, id, name, description, type, model_settings, thresholds, data_sources, created_at, updated_at)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)",
            organization as _,
            id as _,
            name,
            description,
            self.kind as _,
            self.model_settings.unwrap_or_else(|| json!({})),
            Value::Object(thresholds.clone()),
            json!(sources),
            work.now
        )
        .execute(work.tx.conn())
        .await?;
        let after = json!({ "type": self.kind, "status": AgentStatus::Draft, "thresholds": thresholds, "version": 1 });
        Ok(Done { id, audit: json!({ "after": after }), event: None })
    }
}

impl Mutation for AgentUpdateInput {
    type Row = marker::AgentConfiguration;
    const FIELD: &'static str = "agentUpdate";
    const ACTION: Action = Action::AgentWrite;
    const AUDIT: &'static str = "agent.update";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let mut checks = Checks::default();
        let name = self.name.as_deref().map(|name| checks.required("name", name, MAX_NAME));
        let description = check_description(&mut checks, self.description.value().map(String::as_str));
        checks.object("modelSettings", self.model_settings.as_ref(), MAX_SETTINGS);
        let given = self.thresholds.as_ref().map(|given| check_thresholds(&mut checks, "thresholds", given));
        let sources = self.data_sources.as_deref().map(|sources| check_sources(&mut checks, sources));
        checks.finish()?;
        let before = lock_living(work, "id", self.id).await?;
        check_version(self.expected_version, before.version)?;
        let status = self.status.unwrap_or(before.status);
        if status != before.status && !next(before.status).contains(&status) {
            let message = refusal("An agent", before.status, status, next(before.status), "it stays so");
            return Err(VerbError::user("status", UserErrorCode::InvalidTransition, message));
        }
        if let Some(given) = given.as_ref() {
            check_used(work, self.id, &before.thresholds, given).await?;
        }
        let thresholds = given.unwrap_or_else(|| before.thresholds.clone());
        sqlx::query!(
            "update tenantry.agent_configurations
                set name = coalesce($3, name), description = case when $4 then description else $5 end, status = $6,
                    model_settings = coalesce($7, model_settings), thresholds = $8, data_sources = coalesce($9, data_sources), version = version + 1
              where organization_id = $1 and id = $2",
            work.tenant().organization_id as _,
            self.id as _,
            name,
            self.description.is_undefined(),
            description,
            status as _,
            self.model_settings,
            Value::Object(thresholds.clone()),
            sources.map(|sources| json!(sources))
        )
        .execute(work.tx.conn())
        .await?;
        let shown =
            |status, thresholds, version| json!({ "status": status, "thresholds": thresholds, "version": version });
        let audit = json!({
            "before": shown(before.status, &before.thresholds, before.version),
            "after": shown(status, &thresholds, before.version + 1),
        });
        Ok(Done { id: self.id, audit, event: None })
    }
}

/// Refuses to take a threshold away that a rule reads, switched on or not.
async fn check_used(
    work: &mut Work<'_>,
    id: AgentConfigurationId,
    before: &Map<String, Value>,
    after: &Map<String, Value>,
) -> VerbResult<()> {
    if before.keys().all(|name| after.contains_key(name)) {
        return Ok(());
    }
    let mut readers: BTreeMap<String, String> = BTreeMap::new();
    for (_, name, _, conditions) in sql::rules_of(work.tx, id).await? {
        // A rule that is not well formed before the change is not made worse by it.
        let Ok(checked) = check(&conditions, before) else { continue };
        for threshold in checked.thresholds().filter(|threshold| !after.contains_key(*threshold)) {
            readers.entry(threshold.to_owned()).or_insert_with(|| name.clone());
        }
    }
    let mut checks = Checks::default();
    for (threshold, rule) in readers {
        let message = format!("The rule \"{rule}\" reads the threshold `{threshold}`: change the rule first.");
        checks.refuse("thresholds", UserErrorCode::Conflict, message);
    }
    checks.finish()
}
