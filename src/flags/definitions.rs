//! What operators of the platform do about definitions.

use async_graphql::{InputObject, MaybeUndefined};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::types::Json;

use super::evaluate::{FlagKind, FlagRolloutUnit, FlagValueType, Variant};
use super::model::FeatureFlagDefinition;
use super::validate::{Draft, Expected, MAX_KEY, check_key};
use super::{QUIET_DAYS, sql};
use crate::db::{Conn, SystemTx};
use crate::error::Result;
use crate::graphql::mutation::{Checks, UserErrorCode, VerbError, VerbResult, after, check_version};
use crate::graphql::session::Session;
use crate::id::{FeatureFlagOverrideId, Id, OrganizationId};
use crate::organizations::OrganizationPlan;
use crate::platform::{self, Admitted};
use crate::trail::{self, AuditEntry, Difference};

pub(super) const CREATED: &str = "feature_flag.create";
pub(super) const UPDATED: &str = "feature_flag.update";
pub(super) const DELETED: &str = "feature_flag.delete";
pub(super) const KILLED: &str = "feature_flag.kill";
pub(super) const REVIVED: &str = "feature_flag.revive";

/// Class of the advisory locks of flags: "flag". Whoever changes a definition waits for those who are setting its overrides.
const LOCK_CLASS: i32 = 0x666c_6167;

/// A value that a feature flag may have.
#[derive(Clone, Debug, InputObject)]
pub struct FeatureFlagVariantInput {
    /// Name: 1 to 100 characters.
    pub name: String,
    /// The value, of the type of the flag: at most 16 KiB of JSON and 32 levels; numbers up to 2^53 - 1.
    pub value: Value,
    /// Its share of those who have the flag on, beside the weights of the others: 0.0001 to 1,000,000, 1 by default. 0: only
    /// overrides give it.
    pub weight: Option<f64>,
}

/// A feature flag to define.
#[derive(Clone, Debug, InputObject)]
pub struct FeatureFlagCreateInput {
    /// Key, for programs: letters of ASCII and digits with single `.`, `_` or `-` between them, 1 to 100; case counts. It never
    /// changes.
    pub key: String,
    /// Name, for people: 1 to 200 characters.
    pub name: String,
    /// Description of what the flag controls: at most 5,000 characters.
    pub description: Option<String>,
    /// Purpose; it never changes.
    pub kind: FlagKind,
    /// What the variants are; BOOLEAN by default. It never changes.
    pub value_type: Option<FlagValueType>,
    /// The variants: 1 to 50, with values of 64 KiB together; none for a boolean flag.
    pub variants: Option<Vec<FeatureFlagVariantInput>>,
    /// The variant of those who have it off; none for a boolean flag.
    pub off_variant: Option<String>,
    /// Whether it is on where nothing else decides; by default true for a kill switch and false for others.
    pub default_enabled: Option<bool>,
    /// The cheapest plan that includes it; without, every plan does.
    pub minimum_plan: Option<OrganizationPlan>,
    /// For how many of a hundred it is on: 0 to 100, two decimals at most; without, there is no rollout.
    pub rollout_percentage: Option<f64>,
    /// What the rollout and the weights count; ORGANIZATION by default.
    pub rollout_unit: Option<FlagRolloutUnit>,
    /// Before this moment it is off.
    pub starts_at: Option<DateTime<Utc>>,
    /// From this moment on it is off.
    pub ends_at: Option<DateTime<Utc>>,
    /// Who looks after it: at most 200 characters.
    pub owner: Option<String>,
    /// When somebody should ask whether it is still needed.
    pub stale_after: Option<DateTime<Utc>>,
}

/// The changes of a definition. Omitted fields stay as they are; key, kind and type never change.
#[derive(Clone, Debug, InputObject)]
pub struct FeatureFlagUpdateInput {
    /// The flag.
    pub key: String,
    /// Name, for people: 1 to 200 characters.
    pub name: Option<String>,
    /// Description: at most 5,000 characters; null removes it.
    pub description: MaybeUndefined<String>,
    /// The variants, replaced as a whole. Who has one keeps it, unless it goes or a new one takes its share. One that an override in
    /// force names cannot go.
    pub variants: Option<Vec<FeatureFlagVariantInput>>,
    /// The variant of those who have it off.
    pub off_variant: Option<String>,
    /// Whether it is on where nothing else decides; of a kill switch: `featureFlagKill` and `featureFlagRevive`.
    pub default_enabled: Option<bool>,
    /// The cheapest plan that includes it; null: every plan does.
    pub minimum_plan: MaybeUndefined<OrganizationPlan>,
    /// For how many of a hundred it is on: 0 to 100, two decimals at most; null: no rollout. Who has it on keeps it when the
    /// percentage grows.
    pub rollout_percentage: MaybeUndefined<f64>,
    /// What the rollout and the weights count.
    pub rollout_unit: Option<FlagRolloutUnit>,
    /// Before this moment it is off; null: always begun.
    pub starts_at: MaybeUndefined<DateTime<Utc>>,
    /// From this moment on it is off; null: never ends.
    pub ends_at: MaybeUndefined<DateTime<Utc>>,
    /// Who looks after it: at most 200 characters; null removes it.
    pub owner: MaybeUndefined<String>,
    /// When somebody should ask whether it is still needed; null: never.
    pub stale_after: MaybeUndefined<DateTime<Utc>>,
    /// The version that the change is based on; another current version gives `VERSION_CONFLICT`.
    pub expected_version: Option<i32>,
}

/// The feature flag to delete.
#[derive(Clone, Debug, InputObject)]
pub struct FeatureFlagDeleteInput {
    /// The flag.
    pub key: String,
    /// Deletes it although overrides are in force or programs asked for it within 30 days; false by default.
    pub force: Option<bool>,
    /// The version that the change is based on; another current version gives `VERSION_CONFLICT`.
    pub expected_version: Option<i32>,
}

/// The kill switch to turn off.
#[derive(Clone, Debug, InputObject)]
pub struct FeatureFlagKillInput {
    /// The flag, of kind `KILL_SWITCH`.
    pub key: String,
    /// Why: 1 to 500 characters.
    pub reason: String,
}

/// The kill switch to turn on again.
#[derive(Clone, Debug, InputObject)]
pub struct FeatureFlagReviveInput {
    /// The flag, of kind `KILL_SWITCH`.
    pub key: String,
    /// Why: 1 to 500 characters.
    pub reason: String,
}

fn variants_of(inputs: Vec<FeatureFlagVariantInput>) -> Vec<Variant> {
    let variant = |input: FeatureFlagVariantInput| Variant {
        name: input.name,
        value: input.value,
        weight: input.weight.unwrap_or(1.0),
    };
    inputs.into_iter().map(variant).collect()
}

impl From<FeatureFlagCreateInput> for Draft {
    fn from(input: FeatureFlagCreateInput) -> Self {
        Self {
            key: input.key,
            name: input.name,
            description: input.description,
            kind: input.kind,
            value_type: input.value_type.unwrap_or(FlagValueType::Boolean),
            variants: variants_of(input.variants.unwrap_or_default()),
            off_variant: input.off_variant,
            default_enabled: input.default_enabled.unwrap_or(input.kind == FlagKind::KillSwitch),
            minimum_plan: input.minimum_plan,
            rollout_percentage: input.rollout_percentage,
            rollout_unit: input.rollout_unit.unwrap_or(FlagRolloutUnit::Organization),
            starts_at: input.starts_at,
            ends_at: input.ends_at,
            owner: input.owner,
            stale_after: input.stale_after,
        }
    }
}

impl FeatureFlagUpdateInput {
    /// The definition as it is after the changes.
    fn apply(self, before: &Draft) -> Draft {
        let text = |given: MaybeUndefined<String>, before: &Option<String>| match given {
            MaybeUndefined::Undefined => before.clone(),
            given => given.take(),
        };
        Draft {
            key: before.key.clone(),
            name: self.name.unwrap_or_else(|| before.name.clone()),
            description: text(self.description, &before.description),
            kind: before.kind,
            value_type: before.value_type,
            variants: self.variants.map_or_else(|| before.variants.clone(), variants_of),
            off_variant: self.off_variant.or_else(|| before.off_variant.clone()),
            default_enabled: self.default_enabled.unwrap_or(before.default_enabled),
            minimum_plan: after(&self.minimum_plan, before.minimum_plan),
            rollout_percentage: after(&self.rollout_percentage, before.rollout_percentage),
            rollout_unit: self.rollout_unit.unwrap_or(before.rollout_unit),
            starts_at: after(&self.starts_at, before.starts_at),
            ends_at: after(&self.ends_at, before.ends_at),
            owner: text(self.owner, &before.owner),
            stale_after: after(&self.stale_after, before.stale_after),
        }
    }
}

/// What differs, for the log.
fn difference(before: &Draft, after: &Draft) -> Value {
    let mut all = Difference::default();
    all.of("name", &before.name, &after.name);
    all.of("description", &before.description, &after.description);
    all.of("variants", &before.variants, &after.variants);
    all.of("offVariant", &before.off_variant, &after.off_variant);
    all.of("defaultEnabled", &before.default_enabled, &after.default_enabled);
    all.of("minimumPlan", &before.minimum_plan, &after.minimum_plan);
    all.of("rolloutPercentage", &before.rollout_percentage, &after.rollout_percentage);
    all.of("rolloutUnit", &before.rollout_unit, &after.rollout_unit);
    all.of("startsAt", &before.starts_at, &after.starts_at);
    all.of("endsAt", &before.ends_at, &after.ends_at);
    all.of("owner", &before.owner, &after.owner);
    all.of("staleAfter", &before.stale_after, &after.stale_after);
    all.finish()
}

/// The whole of a definition, for the log.
fn whole(draft: &Draft) -> Value {
    json!({
        "name": draft.name, "description": draft.description, "kind": draft.kind, "valueType": draft.value_type,
        "variants": draft.variants, "offVariant": draft.off_variant, "defaultEnabled": draft.default_enabled,
        "minimumPlan": draft.minimum_plan, "rolloutPercentage": draft.rollout_percentage, "rolloutUnit": draft.rollout_unit,
        "startsAt": draft.starts_at, "endsAt": draft.ends_at, "owner": draft.owner, "staleAfter": draft.stale_after,
    })
}

/// Keeps definition and overrides of a flag in step until the transaction ends: `shared` for who sets an override.
pub(super) async fn lock(conn: &mut Conn, key: &str, shared: bool) -> Result<()> {
    let lock = sqlx::query!(
        "select case when $3 then pg_advisory_xact_lock_shared($1, hashtext($2)) else pg_advisory_xact_lock($1, hashtext($2)) end",
        LOCK_CLASS,
        key,
        shared
    );
    lock.execute(conn).await?;
    Ok(())
}

/// A definition in the hands of a verb, with its version.
async fn locked(tx: &mut SystemTx, key: &str) -> VerbResult<(Draft, i32)> {
    let nothing = || VerbError::user("key", UserErrorCode::NotFound, "There is no such feature flag.");
    if key.len() > MAX_KEY || key.contains('\0') {
        return Err(nothing());
    }
    lock(tx.conn(), key, false).await?;
    let row = sqlx::query!(
        r#"select key, name, description, kind as "kind: FlagKind", value_type as "value_type: FlagValueType",
                  variants as "variants: Json<Vec<Variant>>", off_variant, default_enabled,
                  minimum_plan as "minimum_plan: OrganizationPlan", rollout_percentage,
                  rollout_unit as "rollout_unit: FlagRolloutUnit", starts_at, ends_at, owner, stale_after, version
             from tenantry.feature_flag_definitions where key = $1 for update"#,
        key
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or_else(nothing)?;
    let draft = Draft {
        key: row.key,
        name: row.name,
        description: row.description,
        kind: row.kind,
        value_type: row.value_type,
        variants: row.variants.0,
        off_variant: row.off_variant,
        default_enabled: row.default_enabled,
        minimum_plan: row.minimum_plan,
        rollout_percentage: row.rollout_percentage,
        rollout_unit: row.rollout_unit,
        starts_at: row.starts_at,
        ends_at: row.ends_at,
        owner: row.owner,
        stale_after: row.stale_after,
    };
    Ok((draft, row.version))
}

/// What the overrides in force take for granted.
async fn expected(tx: &mut SystemTx, key: &str, now: DateTime<Utc>) -> Result<Expected> {
    let rows = sqlx::query!(
        r#"select variant, count(*) as "count!" from tenantry.organization_feature_flags
            where flag_key = $1 and enabled and (expires_at is null or expires_at > $2) group by variant order by variant"#,
        key,
        now
    )
    .fetch_all(tx.conn())
    .await?;
    let mut expected = Expected::default();
    for row in rows {
        match row.variant {
            Some(name) => expected.variants.push((name, row.count)),
            None => expected.unnamed = row.count,
        }
    }
    Ok(expected)
}

/// Writes the row of the log, commits, and gives the definition as it is now.
async fn conclude(
    tx: Admitted,
    session: &Session,
    (action, key): (&str, &str),
    mut metadata: Value,
) -> VerbResult<FeatureFlagDefinition> {
    metadata["key"] = key.into();
    let mut tx = tx.record(session, action, metadata).await?;
    let definition = sql::definition(&mut tx, key, session.clock().now(), QUIET_DAYS).await?;
    tx.commit().await?;
    definition.ok_or_else(|| VerbError::user("key", UserErrorCode::NotFound, "There is no such feature flag."))
}

pub(super) async fn create(session: &Session, input: FeatureFlagCreateInput) -> VerbResult<FeatureFlagDefinition> {
    let mut tx = platform::admit(session).await?;
    let mut draft = Draft::from(input);
    let mut checks = Checks::default();
    check_key(&mut checks, &draft.key);
    draft.check(&mut checks, &Expected::default());
    checks.finish()?;
    let made = sqlx::query!(
        "insert into tenantry.feature_flag_definitions (id, key, name, description, kind, value_type, variants, off_variant, default_enabled,
                minimum_plan, rollout_percentage, rollout_unit, starts_at, ends_at, owner, stale_after, created_at, updated_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $17) on conflict (key) do nothing",
        Id::<()>::new(session.clock()) as _,
        draft.key,
        draft.name,
        draft.description,
        draft.kind as _,
        draft.value_type as _,
        json!(draft.variants),
        draft.off_variant,
        draft.default_enabled,
        draft.minimum_plan as _,
        draft.rollout_percentage,
        draft.rollout_unit as _,
        draft.starts_at,
        draft.ends_at,
        draft.owner,
        draft.stale_after,
        session.clock().now()
    )
    .execute(tx.system().conn())
    .await?;
    if made.rows_affected() == 0 {
        return Err(VerbError::user("key", UserErrorCode::Conflict, "Another feature flag has this key."));
    }
    conclude(tx, session, (CREATED, &draft.key), json!({ "after": whole(&draft) })).await
}

/// Writes a definition over the one that is locked.
async fn write(tx: &mut SystemTx, draft: &Draft) -> Result<()> {
    sqlx::query!(
        "update tenantry.feature_flag_definitions
            set name = $2, description = $3, variants = $4, off_variant = $5, default_enabled = $6, minimum_plan = $7,
                rollout_percentage = $8, rollout_unit = $9, starts_at = $10, ends_at = $11, owner = $12, stale_after = $13,
                version = version + 1
          where key = $1",
        draft.key,
        draft.name,
        draft.description,
        json!(draft.variants),
        draft.off_variant,
        draft.default_enabled,
        draft.minimum_plan as _,
        draft.rollout_percentage,
        draft.rollout_unit as _,
        draft.starts_at,
        draft.ends_at,
        draft.owner,
        draft.stale_after
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

pub(super) async fn update(session: &Session, input: FeatureFlagUpdateInput) -> VerbResult<FeatureFlagDefinition> {
    let mut tx = platform::admit(session).await?;
    let (before, version) = locked(tx.system(), &input.key).await?;
    check_version(input.expected_version, version)?;
    let mut checks = Checks::default();
    if before.kind == FlagKind::KillSwitch && input.default_enabled.is_some() {
        let message =
            "A kill switch is turned off and on by `featureFlagKill` and `featureFlagRevive`, which take a reason.";
        checks.refuse("defaultEnabled", UserErrorCode::Invalid, message);
    }
    let expected = expected(tx.system(), &before.key, session.clock().now()).await?;
    let mut draft = input.apply(&before);
    draft.check(&mut checks, &expected);
    checks.finish()?;
    write(tx.system(), &draft).await?;
    conclude(tx, session, (UPDATED, &draft.key), difference(&before, &draft)).await
}

/// Turns a kill switch off or on.
pub(super) async fn switch(session: &Session, key: &str, reason: &str, on: bool) -> VerbResult<FeatureFlagDefinition> {
    let mut tx = platform::admit(session).await?;
    let mut checks = Checks::default();
    let reason = checks.required("reason", reason, 500);
    checks.finish()?;
    let (before, _) = locked(tx.system(), key).await?;
    if before.kind != FlagKind::KillSwitch {
        let message = "This flag is no kill switch: change it by `featureFlagUpdate`.";
        return Err(VerbError::user("key", UserErrorCode::Invalid, message));
    }
    if before.default_enabled == on {
        let message = if on { "The kill switch is on already." } else { "The kill switch is off already." };
        return Err(VerbError::user("key", UserErrorCode::InvalidTransition, message));
    }
    let draft = Draft { default_enabled: on, ..before.clone() };
    write(tx.system(), &draft).await?;
    let mut metadata = difference(&before, &draft);
    metadata["reason"] = reason.into();
    conclude(tx, session, (if on { REVIVED } else { KILLED }, key), metadata).await
}

/// Deletes a definition with its overrides; says how many those were.
pub(super) async fn delete(session: &Session, input: &FeatureFlagDeleteInput) -> VerbResult<i64> {
    let mut tx = platform::admit(session).await?;
    let (before, version) = locked(tx.system(), &input.key).await?;
    check_version(input.expected_version, version)?;
    let now = session.clock().now();
    let known = sql::definition(tx.system(), &input.key, now, QUIET_DAYS).await?;
    let living = known.as_ref().map_or(0, |known| known.overrides_in_force);
    let asked = known.and_then(|known| known.last_evaluated_at);
    if !input.force.unwrap_or(false) {
        if living > 0 {
            let message = format!(
                "Overrides of organizations in force: {living}. They would go with it: end them first, or say `force`."
            );
            return Err(VerbError::user("key", UserErrorCode::Conflict, message));
        }
        if let Some(asked) = asked.filter(|asked| now - *asked < chrono::Duration::days(QUIET_DAYS.into())) {
            let message = format!(
                "A program asked for it at {}: take it out of the code first, or say `force`.",
                asked.to_rfc3339()
            );
            return Err(VerbError::user("key", UserErrorCode::Conflict, message));
        }
    }
    let removed = sqlx::query!(
        r#"delete from tenantry.organization_feature_flags where flag_key = $1
           returning organization_id as "organization: OrganizationId", id as "id: FeatureFlagOverrideId", enabled"#,
        input.key
    )
    .fetch_all(tx.system().conn())
    .await?;
    for row in &removed {
        let metadata = json!({ "key": input.key, "cause": "flag deleted", "before": { "enabled": row.enabled } });
        let entry = AuditEntry::of(super::overrides::REMOVED, row.id, metadata);
        let operator = platform::operator(session)?;
        trail::record_of_operator(tx.system(), session.clock(), operator, row.organization, &entry).await?;
    }
    sqlx::query!("delete from tenantry.feature_flag_definitions where key = $1", input.key)
        .execute(tx.system().conn())
        .await?;
    let count = i64::try_from(removed.len()).unwrap_or(i64::MAX);
    let metadata = json!({ "key": input.key, "before": whole(&before), "overrides": count });
    tx.record(session, DELETED, metadata).await?.commit().await?;
    Ok(count)
}
