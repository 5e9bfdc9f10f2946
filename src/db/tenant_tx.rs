//! The only way for API code to reach the database.
//!
//! `tenantry.enter_tenant(…)` looks up the viewer's membership and sets `app.current_org_id` and `app.current_user_id` for
//! this transaction, so that row-level security sees them. A viewer without a live membership gets no transaction: the
//! settings stay empty, and whatever else was sent with the opening sees no rows. The settings are local to the
//! transaction: nothing is left on the connection for the next user.
//!
//! [`TenantTx::begin`] opens one that writes, with checked statements of sqlx; [`TenantTx::read`] one that reads, whose
//! statements do not wait for each other (`read_pool.rs`).
//!
//! A transaction that is dropped, by an error or because the client went away in mid-request, is rolled back before its
//! connection is used again; a connection that cannot be rolled back is closed.

use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use chrono::{DateTime, Utc};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{Postgres, Row as _};
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use crate::access::{Actions, Actor, Bearer, Credential, KeyBearer, MemberRole, OrganizationRef, Tenant};
use crate::db::read_pool::{Failed, Taken, parameters_of};
use crate::db::traffic::{Batch, Called, Sent};
use crate::db::writing::Writing;
use crate::db::{Bind, Conn, Db, Lane, Traffic, takes_no_writes};
use crate::error::{Error, Result};
use crate::hex::hex;
use crate::id::Id;
use crate::sql_text::literal;

/// A transaction bound to one viewer in one organization; `M` says whether it writes or reads.
#[derive(Debug)]
pub struct TenantTx<M = Writing> {
    mode: M,
    tenant: Tenant,
    traffic: Arc<Traffic>,
}

/// What a transaction that reads has. It is read only, on one snapshot: everything a query shows is from the same moment.
pub struct Reading {
    taken: Option<Taken>,
    /// Statements that were sent and not answered.
    unanswered: AtomicU32,
    /// Whether nothing was answered since something was sent.
    one_flight: AtomicBool,
}

impl std::fmt::Debug for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reading").field("unanswered", &self.unanswered).finish_non_exhaustive()
    }
}

impl<M> TenantTx<M> {
    /// The viewer and the organization.
    #[must_use]
    pub fn tenant(&self) -> Tenant {
        self.tenant
    }
}

/// Who follows an invitation.
#[derive(Clone, Copy, Debug)]
pub struct Invited<'a> {
    pub bearer: Bearer<'a>,
    /// SHA-256 of the token.
    pub token_hash: &'a [u8],
    /// The id of the membership to make.
    pub member: Uuid,
    /// The time that decides whether the invitation has expired.
    pub now: DateTime<Utc>,
}

/// Who joins an organization by the domain of their address.
#[derive(Clone, Copy, Debug)]
pub struct Joining<'a> {
    pub bearer: Bearer<'a>,
    /// The organization.
    pub organization: Uuid,
    /// The id of the membership to make.
    pub member: Uuid,
    /// The id of the request to make, where the organization wants to be asked.
    pub request: Uuid,
    /// Whether Clerk decides about the organizations that it knows.
    pub clerk_decides: bool,
    pub now: DateTime<Utc>,
}

/// Who makes an organization.
#[derive(Clone, Copy, Debug)]
pub struct Founded<'a> {
    pub bearer: Bearer<'a>,
    /// The id of the organization to make.
    pub organization: Uuid,
    /// The id of the membership to make.
    pub member: Uuid,
    /// 1 to 200 characters.
    pub name: &'a str,
    /// The wanted slug; it gets a number when it is taken.
    pub slug: &'a str,
    pub now: DateTime<Utc>,
}

/// Whoever brings a token, and whom it says they are.
#[derive(Clone, Copy, Debug)]
pub struct Newcomer<'a> {
    pub bearer: Bearer<'a>,
    /// The id of the user to make.
    pub user: Uuid,
    /// A verified address.
    pub email: Option<&'a str>,
    pub name: Option<&'a str>,
    pub avatar_url: Option<&'a str>,
    /// The personal workspace that a new user gets: the ids of the organization and of the membership, its name, and the wanted
    /// slug.
    pub workspace: Option<(Uuid, Uuid, &'a str, &'a str)>,
    pub now: DateTime<Utc>,
}

/// What came of knocking at a door without being a member.
#[derive(Debug)]
pub enum Admission {
    /// A membership, and a transaction in its organization.
    Joined {
        tx: TenantTx,
        /// The invitation, if there was one.
        invitation: Option<Uuid>,
        /// The organization's name.
        name: String,
        /// The organization's slug.
        slug: String,
        clerk_org_id: Option<String>,
    },
    /// Nothing, and why, as the function behind the door says.
    Refused(String),
}

impl TenantTx {
    /// Opens a transaction that writes, for the user with this `sub` in this organization, or for a program in its key's: one
    /// round trip.
    ///
    /// `traffic` counts what is sent, for the log and the N+1 test.
    ///
    /// # Errors
    /// [`Error::OrganizationNotFound`] when there is no such organization or no membership, or the key opens nothing;
    /// [`Error::Unavailable`] when no connection is to be had in time.
    pub async fn begin<'a>(
        db: &Db,
        credential: impl Into<Credential<'a>>,
        organization: &OrganizationRef,
        traffic: Arc<Traffic>,
    ) -> Result<Self> {
        let credential = credential.into();
        let begin = begin_statement(db.begin(), credential, organization)?;
        let lane = traffic.lane(credential);
        let (mut tx, rows) = Self::begun(db, &begin, lane, traffic).await?;
        let Some(row) = rows.first() else { return Err(Error::OrganizationNotFound) };
        tx.tenant = match credential {
            Credential::Token(_) => {
                let member =
                    tenant(row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?, row.try_get(4)?)?;
                Tenant { is_suspended: row.try_get(5)?, waits_for_seat: row.try_get(6)?, ..member }
            }
            Credential::Key(_) => {
                let program = program(row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
                Tenant { is_suspended: row.try_get(3)?, ..program }
            }
        };
        Ok(tx)
    }

    /// Sends the statements that begin a transaction, of nobody so far, on a connection that lives.
    async fn begun(db: &Db, begin: &str, lane: Lane, traffic: Arc<Traffic>) -> Result<(Self, Vec<PgRow>)> {
        let waiting = db.write_waits.begin();
        let place = db.writers().enter(lane).await?;
        waiting.got();
        traffic.add_statements(1);
        traffic.add_round_trip();
        let sent = Sent::begin(&traffic, Called::Name("BEGIN"), None);
        let answer = Writing::begin(db.app(), begin, Some(place)).await;
        drop(sent);
        match answer {
            Ok((mode, rows)) => Ok((Self { mode, tenant: NOBODY, traffic }, rows)),
            Err(error) if takes_no_writes(&error) => {
                db.leave_standby();
                Err(Error::Unavailable)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Notes that a key was used, once a minute at most.
    ///
    /// # Errors
    /// As [`TenantTx::begin`].
    pub async fn note_use(db: &Db, key: KeyBearer<'_>) -> Result<()> {
        let mut tx = Self::begin(db, Credential::Key(key), &OrganizationRef::OfKey, Arc::default()).await?;
        let (organization, id) = (tx.tenant.organization_id, tx.tenant.actor.uuid());
        sqlx::query!(
            "update tenantry.api_keys set last_used_at = $3::timestamptz
              where organization_id = $1 and id = $2 and (last_used_at is null or last_used_at <= $3::timestamptz - interval '1 minute')",
            organization as _,
            id,
            key.now
        )
        .execute(tx.conn())
        .await?;
        tx.commit().await
    }

    /// Opens a transaction that writes by accepting an invitation: its bearer has no membership before, and is in the
    /// organization that invited them from here on. Nothing of it lasts unless the transaction is committed.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when no connection is to be had in time.
    pub async fn begin_by_invitation(db: &Db, invited: &Invited<'_>, traffic: Arc<Traffic>) -> Result<Admission> {
        let Invited { bearer, token_hash, member, now } = *invited;
        let sql = "select outcome, user_id, organization_id, role::text, is_superadmin, organization_slug, organization_name, invitation_id, clerk_org_id
               from tenantry.accept_invitation($1, $2, $3, $4, $5)";
        let query = sqlx::query(sql).bind(bearer.subject).bind(bearer.session).bind(token_hash).bind(member).bind(now);
        Self::begin_by_door(db, bearer, query, traffic).await
    }

    /// Opens a transaction that writes by joining an organization. Nothing of it lasts unless the transaction is committed; what was
    /// asked for (`REQUESTED`) lasts.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when no connection is to be had in time.
    pub async fn begin_by_domain(db: &Db, joining: &Joining<'_>, traffic: Arc<Traffic>) -> Result<Admission> {
        let Joining { bearer, organization, member, request, clerk_decides, now } = *joining;
        let sql = "select outcome, user_id, organization_id, role::text, is_superadmin, organization_slug, organization_name, null::uuid, clerk_org_id
               from tenantry.join_organization($1, $2, $3, $4, $5, $6, $7)";
        let query = sqlx::query(sql).bind(bearer.subject).bind(bearer.session).bind(organization).bind(member);
        Self::begin_by_door(db, bearer, query.bind(request).bind(clerk_decides).bind(now), traffic).await
    }

    /// Opens a transaction that writes by making an organization, which its bearer owns from here on. Nothing of it lasts
    /// unless the transaction is committed.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when no connection is to be had in time.
    pub async fn begin_by_creation(db: &Db, founded: &Founded<'_>, traffic: Arc<Traffic>) -> Result<Admission> {
        let Founded { bearer, organization, member, name, slug, now } = *founded;
        let sql = "select outcome, user_id, organization_id, role::text, is_superadmin, slug, $5::text, null::uuid, null::text
               from tenantry.create_organization($1, $2, $3, $4, $5, $6, $7)";
        let query = sqlx::query(sql).bind(bearer.subject).bind(bearer.session).bind(organization).bind(member);
        Self::begin_by_door(db, bearer, query.bind(name).bind(slug).bind(now), traffic).await
    }

    /// Makes the user of a token, or brings them up to date. Where they got a personal workspace, a transaction in it:
    /// nothing of it lasts unless that is committed. Otherwise what was done lasts.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when no connection is to be had in time.
    pub async fn meet(db: &Db, newcomer: &Newcomer<'_>, traffic: Arc<Traffic>) -> Result<Option<Self>> {
        let Newcomer { bearer, user, email, name, avatar_url, workspace, now } = *newcomer;
        let sql = "select outcome, user_id, organization_id, role::text, is_superadmin
               from tenantry.meet_user($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
        let query = sqlx::query(sql).bind(bearer.subject).bind(bearer.session).bind(user).bind(email).bind(name);
        let query = query.bind(avatar_url).bind(workspace.map(|new| new.0)).bind(workspace.map(|new| new.1));
        let query = query.bind(workspace.map(|new| new.2)).bind(workspace.map(|new| new.3)).bind(now);
        let lane = traffic.lane(bearer.into());
        let (mut tx, _) = Self::begun(db, db.begin(), lane, traffic).await?;
        let row = query.fetch_one(tx.conn()).await?;
        if row.try_get::<&str, _>(0)? != "JOINED" {
            tx.commit().await?;
            return Ok(None);
        }
        let role: String = row.try_get(3)?;
        tx.tenant = tenant(row.try_get(1)?, row.try_get(2)?, &role, row.try_get(4)?, None)?;
        Ok(Some(tx))
    }

    /// Opens a transaction that writes by taking back that an organization was deleted. Nothing of it lasts unless the
    /// transaction is committed.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when no connection is to be had in time.
    pub async fn begin_by_restoration(
        db: &Db,
        bearer: Bearer<'_>,
        organization: Uuid,
        now: DateTime<Utc>,
        traffic: Arc<Traffic>,
    ) -> Result<Admission> {
        let sql = "select outcome, user_id, organization_id, role::text, is_superadmin, organization_slug, organization_name, null::uuid, clerk_org_id
               from tenantry.restore_organization($1, $2, $3, $4)";
        let query = sqlx::query(sql).bind(bearer.subject).bind(bearer.session).bind(organization).bind(now);
        Self::begin_by_door(db, bearer, query, traffic).await
    }

    async fn begin_by_door(
        db: &Db,
        bearer: Bearer<'_>,
        door: Query<'_, Postgres, PgArguments>,
        traffic: Arc<Traffic>,
    ) -> Result<Admission> {
        if [Some(bearer.subject), bearer.session].into_iter().flatten().any(|text| text.contains('\0')) {
            return Ok(Admission::Refused("NO_ACCOUNT".to_owned()));
        }
        let lane = traffic.lane(bearer.into());
        let (mut tx, _) = Self::begun(db, db.begin(), lane, traffic).await?;
        let row = door.fetch_one(tx.conn()).await?;
        let outcome: String = row.try_get(0)?;
        if outcome == "REQUESTED" {
            tx.commit().await?;
            return Ok(Admission::Refused(outcome));
        }
        if outcome != "JOINED" {
            return Ok(Admission::Refused(outcome));
        }
        let role: String = row.try_get(3)?;
        tx.tenant = tenant(row.try_get(1)?, row.try_get(2)?, &role, row.try_get(4)?, None)?;
        let (slug, name) = (row.try_get(5)?, row.try_get(6)?);
        Ok(Admission::Joined { tx, slug, name, invitation: row.try_get(7)?, clerk_org_id: row.try_get(8)? })
    }

    /// The connection, for one statement: calls are counted, and named by where they stand.
    #[track_caller]
    pub fn conn(&mut self) -> &mut Conn {
        self.conn_for(Called::Place(Location::caller()))
    }

    fn conn_for(&mut self, called: Called<'static>) -> &mut Conn {
        self.traffic.add_statements(1);
        self.traffic.add_round_trip();
        let traffic = &self.traffic;
        self.mode.begins(|| Sent::begin(traffic, called, None));
        self.raw()
    }

    fn raw(&mut self) -> &mut Conn {
        self.mode.conn()
    }

    /// Makes the writes durable and visible. Nothing is, until this returned `Ok`.
    pub async fn commit(self) -> Result<()> {
        self.finish(true).await
    }

    /// Commits when the verb did its work, rolls back when it refused: then everything is taken back when this returns. (A
    /// transaction that is dropped is rolled back behind the answer.)
    pub async fn finish(self, done: bool) -> Result<()> {
        self.traffic.add_statements(1);
        self.traffic.add_round_trip();
        let called = Called::Name(if done { "COMMIT" } else { "ROLLBACK" });
        let sent = Sent::begin(&self.traffic, called, None);
        let ended = self.mode.end(done).await;
        drop(sent);
        Ok(ended?)
    }
}

/// The opening of a transaction that reads, for a person. A plain text, so that it is prepared once for each connection.
const ENTER: &str = "select user_id, organization_id, role::text, is_superadmin, actions, is_suspended, waits_for_seat from tenantry.enter_tenant($1, $2, $3, $4, $5)";
const ENTER_TYPES: &[Type] = &[Type::TEXT, Type::TEXT, Type::UUID, Type::TEXT, Type::TEXT];
/// The same for a program.
const ENTER_BY_KEY: &str = "select api_key_id, organization_id, actions, is_fresh, is_suspended from tenantry.enter_by_key($1, $2, $3, $4, $5, $6)";
const ENTER_BY_KEY_TYPES: &[Type] = &[Type::BYTEA, Type::INET, Type::TIMESTAMPTZ, Type::UUID, Type::TEXT, Type::TEXT];

/// A statement that opens a tenant: its text, its types and its parameters.
type Opening<'a> = (&'static str, &'static [Type], &'a [&'a (dyn ToSql + Sync)]);

/// What reading began with.
pub struct Begun {
    /// The transaction.
    pub tx: TenantTx<Reading>,
    /// The rows of the first statement.
    pub rows: Vec<Row>,
    /// Whether the use of the key is to be noted.
    pub is_stale: bool,
}

impl TenantTx<Reading> {
    /// Opens a transaction that reads, for the user with this `sub` in this organization: one round trip.
    ///
    /// `traffic` counts what is sent, for the log and the N+1 test.
    ///
    /// # Errors
    /// As [`TenantTx::read_first`].
    pub async fn read<'a>(
        db: &Db,
        credential: impl Into<Credential<'a>>,
        organization: &OrganizationRef,
        traffic: Arc<Traffic>,
    ) -> Result<Self> {
        Ok(Self::read_first(db, credential.into(), organization, traffic, None).await?.tx)
    }

    /// Opens a transaction that reads and runs its first statement, in one round trip. The statement cannot know who the
    /// viewer is: it takes the organization from `tenantry.current_org()`, and its caller checks the role before it shows
    /// a row. Without a membership it finds nothing.
    ///
    /// # Errors
    /// [`Error::OrganizationNotFound`] when there is no such organization or no membership, or the key opens nothing;
    /// [`Error::Unavailable`] when no connection is to be had in time.
    pub async fn read_first(
        db: &Db,
        credential: Credential<'_>,
        organization: &OrganizationRef,
        traffic: Arc<Traffic>,
        first: Option<(&str, &[Bind])>,
    ) -> Result<Begun> {
        let (mut id, mut clerk, mut slug): (Option<Uuid>, Option<&str>, Option<&str>) = (None, None, None);
        match organization {
            OrganizationRef::Id(given) => id = Some(*given),
            OrganizationRef::Clerk(given) => clerk = Some(given),
            OrganizationRef::Slug(given) => slug = Some(given),
            OrganizationRef::OfKey => {}
        }
        let texts = match credential {
            Credential::Token(Bearer { subject, session }) => [Some(subject), session, clerk, slug],
            Credential::Key(_) => [None, None, clerk, slug],
        };
        if texts.into_iter().flatten().any(|text| text.contains('\0')) {
            return Err(Error::OrganizationNotFound);
        }
        let lane = traffic.lane(credential);
        match credential {
            Credential::Token(Bearer { subject, session }) => {
                let opening: Opening<'_> = (ENTER, ENTER_TYPES, &[&subject, &session, &id, &clerk, &slug]);
                let (mut tx, row, rows) = Self::open(db, lane, opening, traffic, first).await?;
                let member =
                    tenant(row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?, row.try_get(4)?)?;
                tx.tenant = Tenant { is_suspended: row.try_get(5)?, waits_for_seat: row.try_get(6)?, ..member };
                Ok(Begun { tx, rows, is_stale: false })
            }
            Credential::Key(KeyBearer { hash, ip, now }) => {
                let opening: Opening<'_> = (ENTER_BY_KEY, ENTER_BY_KEY_TYPES, &[&hash, &ip, &now, &id, &clerk, &slug]);
                let (mut tx, row, rows) = Self::open(db, lane, opening, traffic, first).await?;
                let program = program(row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
                tx.tenant = Tenant { is_suspended: row.try_get(4)?, ..program };
                let is_fresh: bool = row.try_get(3)?;
                Ok(Begun { tx, rows, is_stale: !is_fresh })
            }
        }
    }

    /// Opens a transaction of nobody so far; the row of the door, and the rows of the first statement.
    async fn open(
        db: &Db,
        lane: Lane,
        opening: Opening<'_>,
        traffic: Arc<Traffic>,
        first: Option<(&str, &[Bind])>,
    ) -> Result<(Self, Row, Vec<Row>)> {
        let opened = db.readers().on_living(lane, |taken| {
            let mode =
                Reading { taken: Some(taken), unanswered: AtomicU32::new(0), one_flight: AtomicBool::new(false) };
            let mut tx = Self { mode, tenant: NOBODY, traffic: Arc::clone(&traffic) };
            async move {
                match tx.enter(opening, first).await {
                    Ok((rows, found)) => Ok((tx, rows, found)),
                    Err(error) => {
                        // The connection is closed, not rolled back and given to the next one.
                        drop(tx.mode.taken.take());
                        Err(error)
                    }
                }
            }
        });
        let (tx, rows, found) = opened.await?;
        let row = rows.into_iter().next().ok_or(Error::OrganizationNotFound)?;
        Ok((tx, row, found))
    }

    /// Begins the transaction, enters the tenant and runs the first statement, in one write.
    async fn enter(
        &self,
        (sql, types, parameters): Opening<'_>,
        asked: Option<(&str, &[Bind])>,
    ) -> Result<(Vec<Row>, Vec<Row>), Failed> {
        let connection = self.taken().connection();
        let enter = connection.statement(sql, types.iter().cloned()).await?;
        let first = match asked {
            Some((sql, binds)) => Some((connection.prepared(sql, binds).await?, binds)),
            None => None,
        };
        self.traffic.add_statements(if first.is_some() { 2 } else { 1 });
        let unanswered = self.sent();
        // One snapshot for all statements of a query; such a transaction cannot fail to serialize.
        let begin = connection.begin("begin isolation level repeatable read read only");
        let lookup = async {
            let sent = Sent::begin(&self.traffic, Called::Text { sql, binds: &[], table: None }, None);
            let rows = enter.run(connection.client(), parameters).await;
            sent.answered(&rows);
            Ok(rows?)
        };
        let following = async {
            let (Some((statement, binds)), Some((sql, _))) = (&first, asked) else { return Ok(Vec::new()) };
            let sent = Sent::begin(&self.traffic, Called::Text { sql, binds, table: None }, None);
            let rows = statement.run(connection.client(), &parameters_of(binds)).await;
            sent.answered(&rows);
            Ok(rows?)
        };
        let ((), membership, found) = tokio::try_join!(begin, lookup, following)?;
        unanswered.answered();
        Ok((membership, found))
    }

    /// Runs a statement that reads. What is asked for at the same time is sent at once.
    ///
    /// # Errors
    /// As the database gives them; [`Error::Unavailable`] when the connection was lost.
    pub async fn fetch(&self, sql: &str, binds: &[Bind]) -> Result<Vec<Row>> {
        self.fetch_for(None, sql, binds).await
    }

    /// The same for a loader's batch, under which it is recorded.
    ///
    /// # Errors
    /// As [`TenantTx::fetch`].
    pub async fn fetch_for(&self, batch: Option<&Batch>, sql: &str, binds: &[Bind]) -> Result<Vec<Row>> {
        let connection = self.taken().connection();
        let unanswered = self.sent();
        let sent = Sent::begin(&self.traffic, Called::Text { sql, binds, table: batch.map(Batch::table) }, batch);
        let answer = async {
            let result = async {
                let statement = connection.prepared(sql, binds).await?;
                self.traffic.add_statements(1);
                statement.run(connection.client(), &parameters_of(binds)).await
            }
            .await;
            sent.answered(&result);
            Ok(result?)
        };
        let rows = self.taken().pool().in_time(answer).await;
        if !matches!(rows, Err(Failed::Silent)) {
            unanswered.answered();
        }
        Ok(rows?)
    }

    #[expect(clippy::expect_used, reason = "the connection is taken when an opening failed and by drop only")]
    fn taken(&self) -> &Taken {
        self.mode.taken.as_ref().expect("a transaction has its connection until it ends")
    }

    fn sent(&self) -> Unanswered<'_> {
        self.mode.unanswered.fetch_add(1, Ordering::Relaxed);
        if !self.mode.one_flight.swap(true, Ordering::Relaxed) {
            self.traffic.add_round_trip();
        }
        Unanswered(&self.mode)
    }
}

/// A statement that was sent. When nobody waits for it any more it stays unanswered, and the transaction ends by
/// cancelling it.
struct Unanswered<'a>(&'a Reading);

impl Unanswered<'_> {
    fn answered(self) {
        self.0.unanswered.fetch_sub(1, Ordering::Relaxed);
        self.0.one_flight.store(false, Ordering::Relaxed);
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if let Some(taken) = self.taken.take() {
            taken.give_back(self.unanswered.load(Ordering::Relaxed) == 0);
        }
    }
}

/// Why a bearer gets no transaction, beside that they are no member of the organization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Good,
    Unknown,
    Gone,
    Blocked,
    Ended,
}

/// What is to be said to a bearer for whom no organization opened.
///
/// # Errors
/// Always: [`Error::OrganizationNotFound`] to those whose account is well, the error of their account to others, and what is
/// wrong with a key; [`Error::Unavailable`] when the database cannot be asked.
pub async fn refuse<'a, T>(db: &Db, credential: impl Into<Credential<'a>>) -> Result<T> {
    let bearer = match credential.into() {
        Credential::Token(bearer) => bearer,
        Credential::Key(key) => return Err(key_refusal(db, key).await?),
    };
    Err(match standing(db, bearer).await? {
        Standing::Good => Error::OrganizationNotFound,
        Standing::Unknown => Error::AccountNotReady,
        Standing::Gone => Error::AccountGone,
        Standing::Blocked => Error::AccountBlocked,
        Standing::Ended => Error::SessionEnded,
    })
}

/// What is wrong with a key that opened nothing.
async fn key_refusal(db: &Db, key: KeyBearer<'_>) -> Result<Error> {
    let (lane, KeyBearer { hash, ip, now }) = (Lane::of(Credential::Key(key)), key);
    let binds = [Bind::Text(hex(hash)), Bind::Text(ip.map(|ip| ip.to_string()).unwrap_or_default()), Bind::Time(now)];
    let sql = "select tenantry.key_standing(decode($1, 'hex'), nullif($2, '')::inet, $3)";
    let rows = db.read_alone(lane, sql, &binds).await?;
    let found: Option<String> = rows.first().map(|row| row.try_get(0)).transpose()?;
    Ok(match found.as_deref() {
        Some("REVOKED") => Error::InvalidApiKey("it was revoked."),
        Some("TOO_LATE") => Error::InvalidApiKey("it has expired."),
        Some("ADDRESS") => Error::InvalidApiKey("it may not be used from this address."),
        Some("GOOD") => Error::OrganizationMismatch,
        _ => Error::InvalidApiKey("there is no such key."),
    })
}

/// A bearer as the doors of the database take it; `None` when no database can hold it. No session has an empty id.
#[must_use]
pub fn binds_of(bearer: Bearer<'_>) -> Option<[Bind; 2]> {
    let texts = [bearer.subject, bearer.session.unwrap_or_default()];
    (!texts.iter().any(|text| text.contains('\0'))).then(|| texts.map(|text| Bind::Text(text.to_owned())))
}

async fn standing(db: &Db, bearer: Bearer<'_>) -> Result<Standing> {
    let Some(binds) = binds_of(bearer) else { return Ok(Standing::Unknown) };
    let lane = Lane::person(bearer.subject);
    let rows = db.read_alone(lane, "select tenantry.account_standing($1, $2)", &binds).await?;
    let found: Option<String> = rows.first().map(|row| row.try_get(0)).transpose()?;
    Ok(match found.as_deref() {
        Some("UNKNOWN") => Standing::Unknown,
        Some("GONE") => Standing::Gone,
        Some("BLOCKED") => Standing::Blocked,
        Some("ENDED") => Standing::Ended,
        _ => Standing::Good,
    })
}

/// Stands in until the membership is read; it never leaves the opening.
const NOBODY: Tenant = Tenant {
    actor: Actor::User(Id::NIL),
    organization_id: Id::NIL,
    role: MemberRole::Viewer,
    allowed: Actions::NONE,
    is_superadmin: false,
    is_suspended: false,
    waits_for_seat: false,
};

/// A member; `actions` are those of their custom role, if they have one.
fn tenant(user: Uuid, organization: Uuid, role: &str, is_superadmin: bool, actions: Option<&str>) -> Result<Tenant> {
    let role = MemberRole::from_label(role)
        .ok_or_else(|| Error::internal("the database knows a member role that this build does not"))?;
    Ok(Tenant {
        actor: Actor::User(Id::from_uuid(user)),
        organization_id: Id::from_uuid(organization),
        role,
        allowed: actions.map_or_else(|| Actions::of_role(role), Actions::of_custom_role),
        is_superadmin,
        is_suspended: false,
        waits_for_seat: false,
    })
}

/// A program with a key of these scopes.
fn program(key: Uuid, organization: Uuid, scopes: &str) -> Tenant {
    Tenant {
        actor: Actor::Key(Id::from_uuid(key)),
        organization_id: Id::from_uuid(organization),
        role: MemberRole::Viewer,
        allowed: Actions::of_key(scopes),
        is_superadmin: false,
        is_suspended: false,
        waits_for_seat: false,
    }
}

/// Both statements in one message. The simple protocol has no parameters, so the values are quoted here; a NUL, the one
/// character a `PostgreSQL` string cannot hold, is refused.
fn begin_statement(begin: &str, credential: Credential<'_>, organization: &OrganizationRef) -> Result<String> {
    let null = || "null".to_owned();
    let (id, clerk, slug) = match organization {
        OrganizationRef::Id(id) => (format!("'{id}'"), null(), null()),
        OrganizationRef::Clerk(clerk) => (null(), quote(clerk)?, null()),
        OrganizationRef::Slug(slug) => (null(), null(), quote(slug)?),
        OrganizationRef::OfKey => (null(), null(), null()),
    };
    Ok(match credential {
        Credential::Token(Bearer { subject, session }) => {
            let (subject, session) = (quote(subject)?, session.map_or_else(|| Ok(null()), quote)?);
            format!(
                "{begin}; select user_id, organization_id, role::text, is_superadmin, actions, is_suspended, waits_for_seat from tenantry.enter_tenant({subject}, {session}, {id}, {clerk}, {slug})"
            )
        }
        Credential::Key(KeyBearer { hash, ip, now }) => {
            let (hash, now) = (hex(hash), now.to_rfc3339());
            let ip = ip.map_or_else(null, |ip| format!("'{ip}'"));
            format!(
                "{begin}; select api_key_id, organization_id, actions, is_suspended from tenantry.enter_by_key('\\x{hash}', {ip}, '{now}', {id}, {clerk}, {slug})"
            )
        }
    })
}

/// A string constant; a NUL, the one character that a string of `PostgreSQL` cannot hold, is refused.
fn quote(text: &str) -> Result<String> {
    if text.contains('\0') {
        return Err(Error::OrganizationNotFound);
    }
    Ok(literal(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted() {
        let statement = begin_statement(
            "begin",
            r"a'); drop table tenantry.users; --\".into(),
            &OrganizationRef::Slug("x'y".into()),
        )
        .expect("no NUL");
        assert!(
            statement.contains(r"enter_tenant(E'a''); drop table tenantry.users; --\\', null, null, null, E'x''y')"),
            "{statement}"
        );
        assert!(begin_statement("begin", "a\0b".into(), &OrganizationRef::Slug("x".into())).is_err());
    }
}
