//! Delivers events to the inbox and applies them as the worker does.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use serde_json::Value;
use sqlx::Row as _;
use tenantry::clock::Clock;
use tenantry::db::{Db, PoolLimits, SystemTx};
use tenantry::id::Id;
use tenantry::local_postgres;
use tenantry::organizations::OrganizationPlan;
use tenantry::sync::apply::{ApplyContext, EventOutcome, InboxEvent, SyncSettings, apply};
use tenantry::webhooks::receive::head;

use super::history::Event;
use crate::support::TestDb;

/// Stands in events for what makes the objects of a run its own.
pub const TAG: &str = "TAG0000";

pub struct Sync {
    pub database: TestDb,
    pub db: Db,
    pub settings: SyncSettings,
    runs: AtomicU32,
    deliveries: AtomicU64,
    applied: AtomicU64,
    retries: Mutex<BTreeMap<String, u32>>,
}

/// Splitmix64: enough to shuffle with.
pub struct Random(u64);

impl Random {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) >> 33).expect("31 bits") % bound.max(1)
    }
}

impl Sync {
    pub async fn start() -> Self {
        let database = TestDb::seeded().await;
        let limits = PoolLimits { max_connections: 40, ..PoolLimits::default() };
        let db = Db::new(
            database.options(local_postgres::APP_ROLE),
            database.options(local_postgres::SUPERADMIN_ROLE),
            limits,
        );
        let settings = SyncSettings {
            price_plans: BTreeMap::from([("price_mapped".to_owned(), Some(OrganizationPlan::Enterprise))]),
            personal_workspaces: true,
            ..SyncSettings::default()
        };
        Self {
            database,
            db,
            settings,
            runs: AtomicU32::new(0),
            deliveries: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            retries: Mutex::default(),
        }
    }

    pub fn figures(&self) -> String {
        format!(
            "{} runs, {} deliveries, {} events applied or ignored; tried again: {:?}",
            self.runs.load(Ordering::Relaxed),
            self.deliveries.load(Ordering::Relaxed),
            self.applied.load(Ordering::Relaxed),
            self.retries.lock().expect("a lock")
        )
    }

    /// What the objects of the next run are called after.
    pub fn next_tag(&self) -> String {
        format!("T{:06}", self.runs.fetch_add(1, Ordering::Relaxed))
    }

    /// A run of its own, in order and once. Answers its tag and the rows.
    pub async fn run(&self, events: &[Event]) -> (String, Value) {
        let tag = self.next_tag();
        let rows = self.run_as(&tag, events).await;
        (tag, rows)
    }

    pub async fn run_as(&self, tag: &str, events: &[Event]) -> Value {
        self.send(&events.iter().collect::<Vec<_>>(), tag).await;
        self.work(tag, None).await;
        self.rows(tag).await
    }

    /// Types, states and errors of the events of a run.
    pub async fn inbox(&self, tag: &str) -> Vec<(String, String, Option<String>)> {
        sqlx::query_as(
            "select event_type, status::text, coalesce(cause, last_error) from tenantry.webhook_events where event_id like '%' || $1 || '%'",
        )
        .bind(tag)
        .fetch_all(&mut self.database.system().await)
        .await
        .expect("the inbox")
    }

    /// What was audited about the organizations of a run.
    pub async fn audited(&self, tag: &str) -> Vec<String> {
        sqlx::query_scalar(
            "select a.action from tenantry.audit_logs a join tenantry.organizations o on o.id = a.organization_id
              where o.clerk_org_id like '%' || $1 || '%' order by a.id",
        )
        .bind(tag)
        .fetch_all(&mut self.database.system().await)
        .await
        .expect("the audit log")
    }

    /// How often an event had to be tried again.
    pub fn retried(&self) -> u32 {
        self.retries.lock().expect("a lock").values().sum()
    }

    /// A run of its own: in order and once, or shuffled and repeated and at the same time. Answers the rows.
    pub async fn deliver(&self, events: &[Event], seed: Option<u64>) -> Value {
        let Some(seed) = seed else { return self.run(events).await.1 };
        let tag = self.next_tag();
        let mut queue: Vec<&Event> = events.iter().collect();
        let mut random = Random(seed);
        for event in events {
            queue.extend(std::iter::repeat_n(event, random.below(3)));
        }
        for last in (1..queue.len()).rev() {
            queue.swap(last, random.below(last + 1));
        }
        let senders = queue.len().div_ceil(3).max(1);
        let sending = futures_util::future::join_all(queue.chunks(senders).map(|part| self.send(part, &tag)));
        let sent = tokio::sync::watch::channel(false);
        let working = futures_util::future::join_all((0..3).map(|_| self.work(&tag, Some(sent.1.clone()))));
        let sending = async {
            sending.await;
            sent.0.send_replace(true);
        };
        tokio::join!(sending, working);
        self.rows(&tag).await
    }

    pub async fn send(&self, events: &[&Event], tag: &str) {
        for event in events {
            self.deliveries.fetch_add(1, Ordering::Relaxed);
            let text = event.payload.to_string().replace(TAG, tag).replace(&TAG.to_lowercase(), &tag.to_lowercase());
            let payload: Value = serde_json::from_str(&text).expect("JSON");
            let head = head(event.source, &payload).unwrap_or_default();
            let mut tx = SystemTx::begin(&self.db).await.expect("a transaction");
            sqlx::query(
                "insert into tenantry.webhook_events (id, source, event_id, event_type, raw_body, object_id, event_created_at)
                 values ($1, $2, $3, $4, $5, $6, $7) on conflict (source, event_id) do nothing",
            )
            .bind(Id::<()>::new(&Clock::System))
            .bind(event.source)
            .bind(event.id.replace(TAG, tag))
            .bind(&event.kind)
            .bind(text.into_bytes())
            // What the column cannot hold, the receiver replaces.
            .bind(head.object_id.filter(|id| !id.contains('\0') && id.chars().count() <= 255))
            .bind(head.created_at)
            .execute(tx.conn())
            .await
            .expect("an insert");
            tx.commit().await.expect("a commit");
        }
    }

    /// Applies what is there; ends when nothing is left and nothing more is sent.
    pub async fn work(&self, tag: &str, sent: Option<tokio::sync::watch::Receiver<bool>>) {
        loop {
            let all_sent = sent.as_ref().is_none_or(|sent| *sent.borrow());
            match self.step(tag).await {
                Ok(true) => {}
                Ok(false) if all_sent => return,
                Ok(false) => tokio::task::yield_now().await,
                Err(error) => {
                    let mut retries = self.retries.lock().expect("a lock");
                    let count = retries.entry(error.clone()).or_default();
                    *count += 1;
                    assert!(*count < 1000, "{error}");
                }
            }
        }
    }

    async fn step(&self, tag: &str) -> Result<bool, String> {
        let mut tx = SystemTx::begin(&self.db).await.map_err(|error| format!("{error:?}"))?;
        let row = sqlx::query(
            "select id, source, event_id, event_type, raw_body, received_at, attempts from tenantry.webhook_events
              where status in ('RECEIVED', 'FAILED') and event_id like '%' || $1 || '%'
              order by next_attempt_at, id for update skip locked limit 1",
        )
        .bind(tag)
        .fetch_optional(tx.conn())
        .await
        .expect("a claim");
        let Some(row) = row else {
            let left: i64 = sqlx::query_scalar(
                "select count(*) from tenantry.webhook_events where status in ('RECEIVED', 'FAILED') and event_id like '%' || $1 || '%'",
            )
            .bind(tag)
            .fetch_one(tx.conn())
            .await
            .expect("a count");
            return Ok(left > 0);
        };
        let event = InboxEvent {
            id: row.get(0),
            source: row.get(1),
            event_id: row.get(2),
            event_type: row.get(3),
            raw_body: row.get(4),
            received_at: row.get(5),
            attempts: row.get(6),
        };
        let outcome = self.apply(&mut tx, &event).await.map_err(|error| format!("{}: {error:?}", event.event_type))?;
        let (status, organization, finding) = match outcome {
            EventOutcome::Applied { organization, finding } => ("APPLIED", organization, finding),
            EventOutcome::Ignored { organization, .. } => ("IGNORED", organization, None),
            EventOutcome::More => {
                tx.commit().await.map_err(|error| format!("{error:?}"))?;
                return Ok(true);
            }
            EventOutcome::Refetch(_) => panic!("nothing can be fetched here"),
        };
        sqlx::query("update tenantry.webhook_events set status = $2::tenantry.webhook_status, organization_id = $3, finding = $4, processed_at = now() where id = $1")
            .bind(event.id)
            .bind(status)
            .bind(organization)
            .bind(finding)
            .execute(tx.conn())
            .await
            .map_err(|error| error.to_string())?;
        tx.commit().await.map_err(|error| format!("{error:?}"))?;
        self.applied.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }

    pub async fn apply(&self, tx: &mut SystemTx, event: &InboxEvent) -> tenantry::error::Result<EventOutcome> {
        let context =
            ApplyContext { clock: &Clock::System, settings: &self.settings, fetched: None, can_refetch: false };
        apply(tx, &context, event).await
    }

    /// What a run led to, without ids and times of rows, and without the tag.
    pub async fn rows(&self, tag: &str) -> Value {
        let mut system = self.database.system().await;
        let text: String =
            sqlx::query_scalar(ROWS).bind(format!("%{tag}%")).fetch_one(&mut system).await.expect("the rows");
        let text = text.replace(tag, TAG).replace(&tag.to_lowercase(), &TAG.to_lowercase());
        serde_json::from_str(&text).expect("JSON")
    }
}

/// The marks of slugs follow from ids, which hold the tag; the numbers of personal workspaces from who came first.
const ROWS: &str = "
with orgs as (
    select o.*, case when o.is_personal then regexp_replace(o.slug, '-[0-9]+$', '') else regexp_replace(o.slug, '-[0-9a-f]{10}$', '-MARK') end as plain from tenantry.organizations o
     where o.clerk_org_id like $1
        or exists (select from tenantry.organization_members m join tenantry.users u on u.id = m.user_id where m.organization_id = o.id and u.clerk_id like $1))
select jsonb_pretty(jsonb_build_object(
    'users', (select jsonb_agg(jsonb_build_object('id', clerk_id, 'email', email, 'name', regexp_replace(name, '^Member [0-9A-F]{4}$', 'Member MARK'), 'avatar', avatar_url, 'deleted', deleted_at is not null, 'blocked', blocked_until,
                'version', source_version, 'current', (select plain from orgs where orgs.id = current_organization_id)) order by clerk_id)
               from tenantry.users where clerk_id like $1),
    'organizations', (select jsonb_agg(jsonb_build_object('id', clerk_org_id, 'name', name, 'slug', plain, 'status', status, 'personal', is_personal,
                'deleted', deleted_at is not null, 'version', source_version) order by clerk_org_id, plain, name, deleted_at is not null) from orgs),
    'members', (select jsonb_agg(jsonb_build_object('organization', orgs.plain, 'user', u.clerk_id, 'role', m.role, 'from', m.promoted_from,
                'id', m.clerk_membership_id, 'deleted', m.deleted_at is not null, 'version', m.source_version) order by orgs.plain, u.clerk_id)
               from tenantry.organization_members m join orgs on orgs.id = m.organization_id join tenantry.users u on u.id = m.user_id),
    'invitations', (select jsonb_agg(jsonb_build_object('id', clerk_invitation_id, 'email', email, 'role', role, 'accepted', accepted_at, 'revoked', revoked_at is not null)
                order by clerk_invitation_id) from tenantry.invitations i join orgs on orgs.id = i.organization_id),
    'subscriptions', (select jsonb_agg(to_jsonb(s) - '{id,organization_id,created_at,updated_at}'::text[] || jsonb_build_object('organization', orgs.plain) order by orgs.plain, s.stripe_subscription_id)
               from tenantry.subscriptions s join orgs on orgs.id = s.organization_id),
    -- Whose an event is, and what is found of an object, whatever the order in which its events came.
    'events', (select jsonb_agg(jsonb_build_object('event', e.event_id, 'organization', orgs.plain) order by e.event_id)
               from tenantry.webhook_events e join orgs on orgs.id = e.organization_id where e.event_id like $1),
    'findings', (select jsonb_agg(distinct jsonb_build_object('object', object_id, 'finding', finding))
               from tenantry.webhook_events where event_id like $1 and finding is not null),
    'invoices', (select jsonb_agg(jsonb_build_object('organization', orgs.plain, 'action', a.action, 'metadata', a.metadata) order by a.metadata ->> 'cause')
               from tenantry.audit_logs a join orgs on orgs.id = a.organization_id
               join tenantry.webhook_events e on e.event_id = a.metadata ->> 'cause' and e.organization_id = a.organization_id
              where a.action like 'invoice.%'),
    'audited', (select jsonb_agg(jsonb_build_object('organization', x.plain, 'last', x.last) order by x.plain, x.last::text)
               from (select orgs.plain, (array_agg(a.metadata -> 'after' order by a.id desc))[1] as last
                       from tenantry.audit_logs a join orgs on orgs.id = a.organization_id where a.action = 'subscription.sync' group by 1) x),
    'flags', (select jsonb_agg(jsonb_build_object('key', f.flag_key, 'reason', f.reason) order by f.flag_key)
               from tenantry.organization_feature_flags f join orgs on orgs.id = f.organization_id)))";
