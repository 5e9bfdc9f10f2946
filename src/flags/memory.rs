//! The snapshot of this process: loaded by one task, changed by notifications, healed by looks at `tenantry.flag_changes`.
//!
//! A notification says no more than "look now", and a look comes every [`LOOK`] in any case, so a missed one costs that long at
//! most. A look asks for the rows of all transactions that had not ended at the look before: whatever order they commit in, none
//! is missed. Whoever was away for longer than rows are kept, or finds another server than before, loads everything.
//!
//! While the database is away the last snapshot decides, for [`STALE`] at most: then nothing is decided any more.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use chrono::{DateTime, TimeDelta};
use futures_util::{Stream, TryStreamExt as _};
use sqlx::postgres::PgConnectOptions;
use tokio::sync::{Notify, broadcast, watch};
use uuid::Uuid;

use super::FlagKind;
use super::admission::{Admissions, Lost};
use super::evaluate::{Definition, FlagOverrideSource, FlagRolloutUnit, FlagValueType, Override};
use super::snapshot::{Definitions, Etag, KnownKey, OrganizationFlags, Snapshot};
use super::usage::Usage;
use crate::client_keys::token::PublicKey;
use crate::clock::Clock;
use crate::db::{Db, SystemTx, listening};
use crate::error::{Error, Result};
use crate::id::{ClientKeyId, OrganizationId};
use crate::organizations::OrganizationPlan;

/// The channel of NOTIFY.
const CHANNEL: &str = "tenantry_flags";
/// How often the changes are looked at, told or not.
const LOOK: Duration = Duration::from_secs(3);
/// How often at most somebody who waits for a change can have them looked at.
const ASKED: Duration = Duration::from_millis(100);
/// How long somebody waits for a change that another instance has told of.
const CATCH_UP: Duration = Duration::from_millis(500);
/// How long a first request waits for the first snapshot.
const FIRST: Duration = Duration::from_secs(5);
/// Pause after something failed.
const RETRY: Duration = Duration::from_secs(1);
/// How often what was counted is written.
const FLUSH: Duration = Duration::from_secs(10);
/// How long the memory decides while the database is away.
pub const STALE: TimeDelta = TimeDelta::minutes(15);
/// Changes of one look from which on everything is loaded.
const MANY: usize = 2000;
/// Changes that wait for somebody who follows them.
const QUEUE: usize = 256;

/// Feature flags, as this process decides them.
#[derive(Debug)]
pub struct Flags {
    clock: Clock,
    /// A reader holds the lock while it takes the pointer, the writer while it changes it.
    current: RwLock<Option<Arc<Snapshot>>>,
    /// Whether there is a snapshot.
    loaded: watch::Sender<bool>,
    changes: broadcast::Sender<Arc<Vec<Lost>>>,
    look: Notify,
    asked: Notify,
    /// The last look that worked, in microseconds.
    confirmed: AtomicI64,
    /// Looks that have worked.
    looks: AtomicU64,
    is_away: AtomicBool,
    stream_secret: RwLock<Option<[u8; 32]>>,
    /// Who may ask.
    pub admissions: Admissions,
    /// What was asked for.
    pub usage: Usage,
}

/// Overrides, each with the key of its flag.
type Overrides = Vec<(Arc<str>, Override)>;

/// How far the task has come.
struct Position {
    /// Whatever older transactions have done is known.
    oldest: i64,
    /// Seconds: when the server of the database was started.
    started: i64,
    /// The rows of newer ones that are known: while a long transaction runs they are found again.
    seen: HashSet<i64>,
}

/// What has changed.
#[derive(Default)]
struct Found {
    everything: bool,
    definitions: bool,
    organizations: BTreeSet<Uuid>,
    lost: Vec<Lost>,
}

impl Flags {
    /// Nothing is loaded yet. `rate`: requests per second of an API key; 0: no bound.
    #[must_use]
    pub fn new(clock: Clock, rate: u32) -> Self {
        Self {
            clock,
            current: RwLock::default(),
            loaded: watch::Sender::new(false),
            changes: broadcast::channel(QUEUE).0,
            look: Notify::new(),
            asked: Notify::new(),
            confirmed: AtomicI64::new(0),
            looks: AtomicU64::new(0),
            is_away: AtomicBool::new(false),
            stream_secret: RwLock::default(),
            admissions: Admissions::new(rate),
            usage: Usage::default(),
        }
    }

    /// What decides now.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when nothing was loaded yet, or the database is away for longer than [`STALE`].
    pub fn snapshot(&self) -> Result<Arc<Snapshot>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner).clone();
        match current {
            Some(snapshot) if !self.is_away() || self.age() <= STALE => Ok(snapshot),
            _ => Err(Error::Unavailable),
        }
    }

    /// The same; right after the start it waits for the first one.
    ///
    /// # Errors
    /// As [`Flags::snapshot`].
    pub async fn loaded_snapshot(&self) -> Result<Arc<Snapshot>> {
        if !*self.loaded.borrow() {
            let mut loaded = self.loaded.subscribe();
            tokio::time::timeout(FIRST, loaded.wait_for(|loaded| *loaded)).await.ok();
        }
        self.snapshot()
    }

    /// Whether the last look at the database failed: the memory decides, and may be behind.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.is_away.load(Ordering::Acquire)
    }

    /// How long ago the memory was last confirmed.
    #[must_use]
    pub fn age(&self) -> TimeDelta {
        let confirmed = DateTime::from_timestamp_micros(self.confirmed.load(Ordering::Acquire));
        self.clock.now() - confirmed.unwrap_or_default()
    }

    /// Whether anything was loaded: a worker has no flags.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        *self.loaded.borrow()
    }

    /// The time.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// What addresses of streams are signed with.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when nothing was loaded yet.
    pub fn stream_secret(&self) -> Result<[u8; 32]> {
        (*self.stream_secret.read().unwrap_or_else(PoisonError::into_inner)).ok_or(Error::Unavailable)
    }

    /// Every look that found something, with who may have lost access.
    #[must_use]
    pub fn follow(&self) -> broadcast::Receiver<Arc<Vec<Lost>>> {
        self.changes.subscribe()
    }

    /// How many follow the changes in this process.
    #[must_use]
    pub fn followers(&self) -> usize {
        self.changes.receiver_count()
    }

    /// The configuration of an organization each time that it has become another, by a change or by the clock.
    ///
    /// # Errors
    /// As [`Flags::snapshot`].
    pub fn changes(self: &Arc<Self>, organization: OrganizationId) -> Result<impl Stream<Item = Etag> + Send + use<>> {
        let followed = self.follow();
        let last = self.snapshot()?.etag(organization, self.clock.now());
        let state = (Arc::clone(self), followed, last);
        Ok(futures_util::stream::unfold(state, move |(flags, mut followed, mut last)| async move {
            loop {
                let turn = flags.until_turn(organization);
                tokio::select! {
                    told = followed.recv() => {
                        if matches!(told, Err(broadcast::error::RecvError::Closed)) {
                            return None;
                        }
                    }
                    () = turn => {}
                }
                let Ok(snapshot) = flags.snapshot() else { continue };
                let etag = snapshot.etag(organization, flags.clock.now());
                if etag != last {
                    last = etag;
                    return Some((etag, (flags, followed, last)));
                }
            }
        }))
    }

    /// Waits until the clock alone changes the configuration of an organization; longer than an hour is waited for in hours.
    pub async fn until_turn(&self, organization: OrganizationId) {
        let now = self.clock.now();
        let turn = self.snapshot().ok().and_then(|snapshot| snapshot.next_turn(organization, now));
        let wait = turn.and_then(|turn| (turn - now).to_std().ok()).unwrap_or(Duration::from_hours(1));
        // The turn itself must have passed.
        tokio::time::sleep(wait.min(Duration::from_hours(1)) + Duration::from_millis(2)).await;
    }

    /// Waits, not for long, until the organization has this configuration, of which another instance has told.
    pub async fn catch_up(&self, organization: OrganizationId, wanted: &str) {
        let is_there = || {
            let snapshot = self.snapshot().ok();
            snapshot.is_none_or(|known| known.etag(organization, self.clock.now()).to_string() == wanted)
        };
        let mut followed = self.follow();
        let begun = self.looks.load(Ordering::Acquire);
        let waiting = async {
            while !is_there() && self.looks.load(Ordering::Acquire) < begun + 2 {
                self.asked.notify_one();
                tokio::time::timeout(ASKED, followed.recv()).await.ok();
            }
        };
        tokio::time::timeout(CATCH_UP, waiting).await.ok();
    }

    /// Keeps the memory as the database is, and writes what was counted, until shutdown.
    pub async fn keep(self: Arc<Self>, db: Db, options: PgConnectOptions, mut shutdown: watch::Receiver<bool>) {
        let options = options.application_name("tenantry-flags");
        tokio::select! {
            () = self.listen(&options) => {}
            () = self.watch(&db) => {}
            () = self.write_usage(&db) => {}
            _ = shutdown.wait_for(|stop| *stop) => {}
        }
        // Requests under way are still counted; a moment for them is not worth a slower stop.
        self.flush(&db).await;
    }

    /// Has the changes looked at whenever one is told.
    async fn listen(&self, options: &PgConnectOptions) {
        loop {
            let look = || self.look.notify_one();
            let Err(error) = listening::listen(options, CHANNEL, look, look).await;
            tracing::warn!(%error, "listening for changes of flags failed; trying again");
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Looks at the changes, told or not.
    async fn watch(&self, db: &Db) {
        let mut position = None;
        loop {
            match self.look_at_changes(db, position.as_ref()).await {
                Ok(now) => {
                    position = Some(now);
                    self.confirmed.store(self.clock.now().timestamp_micros(), Ordering::Release);
                    self.looks.fetch_add(1, Ordering::AcqRel);
                    if self.is_away.swap(false, Ordering::AcqRel) {
                        tracing::info!("the flags are as the database has them again");
                    }
                    tokio::select! {
                        () = self.look.notified() => {}
                        () = async { self.asked.notified().await; tokio::time::sleep(ASKED).await } => {}
                        () = tokio::time::sleep(LOOK) => {}
                    }
                }
                Err(error) => {
                    // A database that comes back may be another one, which lacks what was committed last.
                    position = None;
                    if !self.is_away.swap(true, Ordering::AcqRel) {
                        tracing::warn!(%error, "the changes of flags cannot be looked at; the memory decides");
                    }
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    async fn look_at_changes(&self, db: &Db, before: Option<&Position>) -> Result<Position> {
        let mut tx = SystemTx::begin(db).await?;
        let (position, found) = changes(&mut tx, before).await?;
        let Some(current) =
            self.current.read().unwrap_or_else(PoisonError::into_inner).clone().filter(|_| !found.everything)
        else {
            let snapshot = everything(&mut tx).await?;
            let secret = stream_secret(&mut tx).await?;
            *self.stream_secret.write().unwrap_or_else(PoisonError::into_inner) = Some(secret);
            tx.commit().await?;
            self.publish(snapshot, vec![Lost::EVERYBODY]);
            return Ok(position);
        };
        let mut next = None;
        if found.definitions {
            next = Some(current.with_definitions(definitions(&mut tx).await?));
        }
        if !found.organizations.is_empty() {
            let ids: Vec<Uuid> = found.organizations.iter().copied().collect();
            let mut known = organizations(&mut tx, Some(&ids)).await?;
            let changed = next.unwrap_or_else(|| Snapshot::clone(&current));
            next = Some(
                ids.into_iter()
                    .map(OrganizationId::from_uuid)
                    .fold(changed, |snapshot, id| snapshot.with_organization(id, known.remove(&id))),
            );
            let keys = client_keys(&mut tx, Some(&found.organizations.iter().copied().collect::<Vec<_>>())).await?;
            next = next.map(|next| next.with_client_keys(&found.organizations, keys));
        }
        tx.commit().await?;
        match next {
            Some(next) => self.publish(next, found.lost),
            None if !found.lost.is_empty() => self.tell(found.lost),
            None => {}
        }
        Ok(position)
    }

    fn publish(&self, snapshot: Snapshot, lost: Vec<Lost>) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(snapshot));
        self.loaded.send_replace(true);
        self.tell(lost);
    }

    fn tell(&self, lost: Vec<Lost>) {
        self.admissions.forget(&lost);
        // Nobody following is no error.
        drop(self.changes.send(Arc::new(lost)));
    }

    async fn write_usage(&self, db: &Db) {
        loop {
            tokio::time::sleep(FLUSH).await;
            self.flush(db).await;
        }
    }

    /// Writes what was counted.
    pub async fn flush(&self, db: &Db) {
        let Some(snapshot) = self.current.read().unwrap_or_else(PoisonError::into_inner).clone() else { return };
        if let Err(error) = self.usage.flush(db, snapshot.definitions()).await {
            tracing::warn!(%error, "the use of flags was not written");
        }
    }
}

/// What has changed since, and how far that reaches.
async fn changes(tx: &mut SystemTx, before: Option<&Position>) -> Result<(Position, Found)> {
    let since = before.map_or(i64::MAX, |before| before.oldest);
    // One statement: what it sees, and the oldest transaction that it may not see, are of one snapshot.
    let rows = sqlx::query!(
        r#"select pg_snapshot_xmin(pg_current_snapshot())::text::bigint as "oldest!",
                  extract(epoch from pg_postmaster_start_time())::bigint as "started!",
                  (select purged::text::bigint from tenantry.flag_state) as "purged!",
                  c.id as "id?", c.kind as "kind?", c.organization, c.actor, c.session
             from (select) one
             left join (select * from tenantry.flag_changes where transaction >= ($1::bigint)::text::xid8 order by id limit $2) c on true"#,
        since,
        i64::try_from(MANY).unwrap_or(i64::MAX)
    )
    .fetch_all(tx.conn())
    .await?;
    let Some(first) = rows.first() else { return Err(Error::internal("a look at the changes of flags gave no row")) };
    let seen = rows.iter().filter_map(|row| row.id).collect();
    let position = Position { oldest: first.oldest, started: first.started, seen };
    let mut found = Found {
        everything: rows.len() >= MANY
            || before.is_none_or(|before| {
                before.started != position.started || before.oldest > position.oldest || first.purged >= before.oldest
            }),
        ..Found::default()
    };
    for row in rows {
        let (Some(id), Some(kind)) = (row.id, row.kind) else { continue };
        if before.is_some_and(|before| before.seen.contains(&id)) {
            continue;
        }
        match kind.as_str() {
            "DEFINITIONS" => found.definitions = true,
            "ORGANIZATION" | "STANDING" => found.organizations.extend(row.organization),
            _ => {}
        }
        if matches!(kind.as_str(), "STANDING" | "ACCESS") {
            let organization = row.organization.map(OrganizationId::from_uuid);
            found.lost.push(Lost { organization, actor: row.actor, session: row.session });
        }
    }
    Ok((position, found))
}

/// Removes the rows of transactions that ended an hour ago, and writes down which, so that whoever has not looked since loads
/// everything.
///
/// # Errors
/// When the database cannot be reached.
pub async fn forget_changes(db: &Db) -> Result<u64> {
    let mut tx = SystemTx::begin(db).await?;
    let removed = sqlx::query_scalar!(
        r#"with gone as (
               delete from tenantry.flag_changes
                where created_at < now() - interval '1 hour' and transaction < pg_snapshot_xmin(pg_current_snapshot())
               returning transaction),
           newest as (select max(transaction) as purged, count(*) as removed from gone)
           update tenantry.flag_state s set purged = greatest(s.purged, coalesce(n.purged, s.purged)) from newest n
           returning n.removed as "removed!""#
    )
    .fetch_one(tx.conn())
    .await?;
    tx.commit().await?;
    Ok(u64::try_from(removed).unwrap_or_default())
}

async fn everything(tx: &mut SystemTx) -> Result<Snapshot> {
    let definitions = definitions(tx).await?;
    let organizations = organizations(tx, None).await?;
    Ok(Snapshot::new(definitions, organizations, client_keys(tx, None).await?))
}

/// The client keys of these organizations, or of all, that were not revoked.
async fn client_keys(tx: &mut SystemTx, only: Option<&[Uuid]>) -> Result<HashMap<ClientKeyId, KnownKey>> {
    let rows = sqlx::query!(
        "select k.id, k.organization_id, k.public_key, k.expires_at
           from tenantry.client_keys k join tenantry.organizations o on o.id = k.organization_id and o.deleted_at is null
          where k.revoked_at is null and ($1::uuid[] is null or k.organization_id = any ($1))",
        only
    )
    .fetch_all(tx.conn())
    .await?;
    let known = rows.into_iter().map(|row| {
        let public = PublicKey::try_from(row.public_key.as_slice()).map_err(Error::internal)?;
        let organization = OrganizationId::from_uuid(row.organization_id);
        Ok((ClientKeyId::from_uuid(row.id), KnownKey { organization, public, expires_at: row.expires_at }))
    });
    known.collect()
}

async fn stream_secret(tx: &mut SystemTx) -> Result<[u8; 32]> {
    let secret = sqlx::query_scalar!("select stream_secret from tenantry.flag_state").fetch_one(tx.conn()).await?;
    secret.try_into().map_err(|_| Error::internal("the secret of streams has another length"))
}

async fn definitions(tx: &mut SystemTx) -> Result<Definitions> {
    let rows = sqlx::query!(
        r#"select key, kind as "kind: FlagKind", value_type as "value_type: FlagValueType", variants, off_variant, default_enabled,
                  minimum_plan as "minimum_plan: OrganizationPlan", rollout_percentage,
                  rollout_unit as "rollout_unit: FlagRolloutUnit", starts_at, ends_at
             from tenantry.feature_flag_definitions"#
    )
    .fetch_all(tx.conn())
    .await?;
    let all = rows.into_iter().map(|row| {
        Ok(Definition {
            key: row.key,
            kind: row.kind,
            value_type: row.value_type,
            variants: serde_json::from_value(row.variants).map_err(Error::internal)?,
            off_variant: row.off_variant,
            default_enabled: row.default_enabled,
            minimum_plan: row.minimum_plan,
            rollout_percentage: row.rollout_percentage,
            rollout_unit: row.rollout_unit,
            starts_at: row.starts_at,
            ends_at: row.ends_at,
        })
    });
    Ok(Definitions::new(all.collect::<Result<_>>()?))
}

/// What is known of these organizations, or of all, as far as it is not what all have.
async fn organizations(tx: &mut SystemTx, only: Option<&[Uuid]>) -> Result<HashMap<OrganizationId, OrganizationFlags>> {
    let mut known: HashMap<OrganizationId, (OrganizationPlan, Overrides)> = HashMap::new();
    let mut plans = sqlx::query!(
        r#"select s.organization_id, s.plan as "plan: OrganizationPlan"
             from tenantry.subscriptions s join tenantry.organizations o on o.id = s.organization_id and o.deleted_at is null
            where s.plan <> 'FREE' and ($1::uuid[] is null or s.organization_id = any ($1))"#,
        only
    )
    .fetch(tx.conn());
    while let Some(row) = plans.try_next().await? {
        known.insert(OrganizationId::from_uuid(row.organization_id), (row.plan, Vec::new()));
    }
    drop(plans);
    // Of each key there is one text in memory.
    let mut keys: HashSet<Arc<str>> = HashSet::new();
    let mut overrides = sqlx::query!(
        r#"select f.organization_id, f.flag_key, f.source as "source: FlagOverrideSource", f.enabled, f.variant, f.exceeds_plan, f.expires_at
             from tenantry.organization_feature_flags f
             join tenantry.organizations o on o.id = f.organization_id and o.deleted_at is null
            where $1::uuid[] is null or f.organization_id = any ($1)"#,
        only
    )
    .fetch(tx.conn());
    while let Some(row) = overrides.try_next().await? {
        let key = keys.get(row.flag_key.as_str()).cloned().unwrap_or_else(|| {
            let key: Arc<str> = row.flag_key.into();
            keys.insert(Arc::clone(&key));
            key
        });
        let said = Override {
            source: row.source,
            enabled: row.enabled,
            variant: row.variant,
            exceeds_plan: row.exceeds_plan,
            expires_at: row.expires_at,
        };
        let id = OrganizationId::from_uuid(row.organization_id);
        known.entry(id).or_insert_with(|| (OrganizationPlan::Free, Vec::new())).1.push((key, said));
    }
    drop(overrides);
    Ok(known.into_iter().map(|(id, (plan, overrides))| (id, OrganizationFlags::new(plan, overrides))).collect())
}
