//! Typed ids: a [`TicketId`] can neither be mixed up with another id in Rust nor in GraphQL.
//!
//! In the database an id is a UUID, version 7 (RFC 9562: ordered by time, so that indexes grow at one end). To
//! clients it is an opaque string: the prefix of its type and 32 hex digits, `tic_0199c0ffee…`. The prefix makes an id of
//! another type an error instead of a row that is never found, and lets `node(id:)` know the table.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;

use async_graphql::{ID, InputType, InputValueError, InputValueResult, OutputType, Value, registry::Registry};
use sqlx::Postgres;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgTypeInfo, PgValueRef};
use uuid::{NoContext, Timestamp, Uuid};

use crate::clock::Clock;

/// A type whose rows have ids: a [`marker`].
pub trait Identified: Send + Sync + 'static {
    /// Three letters that stand before every id of this type; unique, a test says so.
    const PREFIX: &'static str;
    /// The name of the GraphQL type.
    const NAME: &'static str;
}

macro_rules! ids {
    ($($name:ident $alias:ident $prefix:literal,)+) => {
        /// The types that ids belong to. They stand here and not with the rows, so that what lies below the slices
        /// (the transaction, the token) can name the id of a user or an organization without knowing its slice.
        pub mod marker {
            $(
                #[doc = concat!("Marks the ids of a `", stringify!($name), "`.")]
                #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
                pub enum $name {}

                impl super::Identified for $name {
                    const PREFIX: &'static str = $prefix;
                    const NAME: &'static str = stringify!($name);
                }
            )+
        }

        $(
            #[doc = concat!("The id of a `", stringify!($name), "`: `", $prefix, "_…`.")]
            pub type $alias = Id<marker::$name>;
        )+

        /// The prefix of every id, with the name of its type.
        pub const PREFIXES: &[(&str, &str)] = &[$(($prefix, stringify!($name))),+];
    };
}

ids! {
    AgentConfiguration AgentConfigurationId "agt",
    ApiKey ApiKeyId "key",
    AuditLog AuditLogId "aud",
    BillingAction BillingActionId "bac",
    Budget BudgetId "bud",
    BudgetAlert BudgetAlertId "bal",
    BudgetReservation BudgetReservationId "bre",
    BudgetUsageRecord BudgetUsageRecordId "bur",
    BusinessCalendar BusinessCalendarId "bca",
    ClientKey ClientKeyId "cky",
    CustomRole CustomRoleId "cro",
    Customer CustomerId "cus",
    CustomerEvent CustomerEventId "cev",
    DecisionRule DecisionRuleId "rul",
    Escalation EscalationId "esc",
    EscalationNotice EscalationNoticeId "esn",
    EscalationRule EscalationRuleId "esr",
    FeatureFlagOverride FeatureFlagOverrideId "ffo",
    Invitation InvitationId "inv",
    Invoice InvoiceId "bil",
    Organization OrganizationId "org",
    MembershipRequest MembershipRequestId "mre",
    OrganizationDomain OrganizationDomainId "dom",
    OrganizationMember OrganizationMemberId "mem",
    PerformanceMetric PerformanceMetricId "met",
    PlatformOrganization PlatformOrganizationId "por",
    PlatformUser PlatformUserId "pus",
    Refund RefundId "ref",
    Representative RepresentativeId "rep",
    RepresentativeAbsence RepresentativeAbsenceId "rab",
    SlaEvent SlaEventId "sle",
    SlaPolicy SlaPolicyId "slp",
    Subscription SubscriptionId "sub",
    SupportAccess SupportAccessId "sup",
    TeamPerformance TeamPerformanceId "per",
    Ticket TicketId "tic",
    TicketEvent TicketEventId "tev",
    TicketField TicketFieldId "tfi",
    TicketMessage TicketMessageId "msg",
    TicketMessageRevision TicketMessageRevisionId "mrv",
    TicketView TicketViewId "tvi",
    TicketWatcher TicketWatcherId "twa",
    User UserId "usr",
    WebhookEvent WebhookEventId "whe",
}

/// The id of a `T`.
pub struct Id<T>(Uuid, PhantomData<fn() -> T>);

impl<T> Id<T> {
    /// The id of nothing: no row has it.
    pub const NIL: Self = Self(Uuid::nil(), PhantomData);

    /// A new id: version 7, with the clock's time.
    #[must_use]
    pub fn new(clock: &Clock) -> Self {
        let now = clock.now();
        let seconds = u64::try_from(now.timestamp()).unwrap_or(0);
        Self::from_uuid(Uuid::new_v7(Timestamp::from_unix(NoContext, seconds, now.timestamp_subsec_nanos())))
    }

    /// The id with this UUID.
    #[must_use]
    pub fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid, PhantomData)
    }

    /// The UUID, as the database has it.
    #[must_use]
    pub fn uuid(self) -> Uuid {
        self.0
    }
}

impl<T: Identified> serde::Serialize for Id<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, T: Identified> serde::Deserialize<'de> for Id<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

impl<T: Identified> Id<T> {
    /// Reads what a client sent.
    ///
    /// # Errors
    /// The text names what is wrong: no id at all, or the id of another type.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (prefix, uuid) = split(text)?;
        if prefix == T::PREFIX { Ok(Self::from_uuid(uuid)) } else { Err(foreign(text, T::NAME, T::PREFIX)) }
    }
}

/// Splits an id into prefix and UUID, without asking which types exist.
///
/// # Errors
/// When the text has not the form of an id.
pub fn split(text: &str) -> Result<(&str, Uuid), String> {
    text.split_once('_')
        .filter(|(prefix, hex)| prefix.len() == 3 && hex.len() == 32)
        .and_then(|(prefix, hex)| Some((prefix, Uuid::try_parse(hex).ok()?)))
        .ok_or_else(|| {
            let shown: String = text.chars().take(60).filter(|c| !c.is_control()).collect();
            format!("\"{shown}\" is not an id: use ids as the API returned them")
        })
}

impl<T> Clone for Id<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Id<T> {}
impl<T> PartialEq for Id<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl<T> Eq for Id<T> {}
impl<T> PartialOrd for Id<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Id<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}
impl<T> Hash for Id<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}
impl<T: Identified> fmt::Display for Id<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", T::PREFIX, self.0.simple())
    }
}
impl<T> fmt::Debug for Id<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl<T> sqlx::Type<Postgres> for Id<T> {
    fn type_info() -> PgTypeInfo {
        <Uuid as sqlx::Type<Postgres>>::type_info()
    }
}
impl<T> sqlx::postgres::PgHasArrayType for Id<T> {
    fn array_type_info() -> PgTypeInfo {
        <Uuid as sqlx::postgres::PgHasArrayType>::array_type_info()
    }
}
impl<T> sqlx::Encode<'_, Postgres> for Id<T> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        <Uuid as sqlx::Encode<Postgres>>::encode_by_ref(&self.0, buffer)
    }
}
impl<T> sqlx::Decode<'_, Postgres> for Id<T> {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        <Uuid as sqlx::Decode<Postgres>>::decode(value).map(Self::from_uuid)
    }
}

impl<'a, T> tokio_postgres::types::FromSql<'a> for Id<T> {
    fn from_sql(
        ty: &tokio_postgres::types::Type,
        raw: &'a [u8],
    ) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        <Uuid as tokio_postgres::types::FromSql>::from_sql(ty, raw).map(Self::from_uuid)
    }

    fn accepts(ty: &tokio_postgres::types::Type) -> bool {
        <Uuid as tokio_postgres::types::FromSql>::accepts(ty)
    }
}

/// What the names of ids' types begin with inside [`typed`].
const TYPED_PREFIX: &str = "IDOf";

thread_local! {
    static TYPED: Cell<bool> = const { Cell::new(false) };
}

/// Builds a schema in which every id that is an input has a type of its own. The published schema calls them all `ID`, as
/// Relay wants it; the checks of inputs read this one, so that they can say whose id is expected, and where.
pub fn typed<S>(build: impl FnOnce() -> S) -> S {
    TYPED.set(true);
    let schema = build();
    TYPED.set(false);
    schema
}

/// The type whose ids a type of [`typed`] has.
#[must_use]
pub fn typed_name(name: &str) -> Option<&str> {
    let of = name.strip_prefix(TYPED_PREFIX)?;
    PREFIXES.iter().any(|(_, known)| *known == of).then_some(of)
}

/// Says what is wrong with a text that is to be the id of a type, if anything is.
///
/// # Errors
/// The text names what is wrong: no id at all, or the id of another type.
pub fn check(text: &str, type_name: &str) -> Result<(), String> {
    let (prefix, _) = split(text)?;
    match PREFIXES.iter().find(|(_, name)| *name == type_name) {
        Some((right, name)) if prefix != *right => Err(foreign(text, name, right)),
        _ => Ok(()),
    }
}

fn foreign(text: &str, type_name: &str, prefix: &str) -> String {
    format!("\"{text}\" is not the id of a {type_name}: those begin with `{prefix}_`")
}

// In the schema every id is the built-in scalar `ID`.
impl<T: Identified + 'static> InputType for Id<T> {
    type RawValueType = Self;
    fn type_name() -> Cow<'static, str> {
        if TYPED.get() { Cow::Owned(format!("{TYPED_PREFIX}{}", T::NAME)) } else { Cow::Borrowed("ID") }
    }
    fn create_type_info(registry: &mut Registry) -> String {
        <ID as InputType>::create_type_info(registry);
        <Self as InputType>::qualified_type_name()
    }
    fn parse(value: Option<Value>) -> InputValueResult<Self> {
        match value {
            Some(Value::String(text)) => Self::parse(&text).map_err(InputValueError::custom),
            // The scalar takes whole numbers as well (GraphQL specification, section 3.5.5); ours are none.
            Some(Value::Number(number)) => Self::parse(&number.to_string()).map_err(InputValueError::custom),
            other => Err(InputValueError::expected_type(other.unwrap_or_default())),
        }
    }
    fn to_value(&self) -> Value {
        Value::String(self.to_string())
    }
    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }
}
impl<T: Identified + 'static> OutputType for Id<T> {
    fn type_name() -> Cow<'static, str> {
        Cow::Borrowed("ID")
    }
    fn create_type_info(registry: &mut Registry) -> String {
        <ID as OutputType>::create_type_info(registry)
    }
    async fn resolve(
        &self,
        _: &async_graphql::context::ContextSelectionSet<'_>,
        _: &async_graphql::Positioned<async_graphql::parser::types::Field>,
    ) -> async_graphql::ServerResult<Value> {
        Ok(Value::String(self.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_the_way_to_the_client_and_back() {
        let id = TicketId::new(&Clock::System);
        assert_eq!(TicketId::parse(&id.to_string()), Ok(id));
        assert_eq!(id.uuid().get_version_num(), 7);
    }

    #[test]
    fn every_prefix_is_unique() {
        let mut prefixes: Vec<&str> = PREFIXES.iter().map(|(prefix, _)| *prefix).collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        assert_eq!(prefixes.len(), PREFIXES.len());
        assert!(prefixes.iter().all(|prefix| prefix.len() == 3));
    }

    #[test]
    fn foreign_and_broken_ids_are_refused() {
        let hex = "0199c0ffee0070008000000000000001";
        for bad in [
            String::new(),
            "tic".into(),
            "tic_".into(),
            format!("usr_{hex}"),
            format!("tic-{hex}"),
            format!("tic_{hex}0"),
            format!("tic_{}", "g".repeat(32)),
            "tic_\0".into(),
            "ü".repeat(36),
            "x".repeat(1 << 20),
        ] {
            let error = TicketId::parse(&bad).expect_err(&bad);
            assert!(error.len() < 200, "the message repeats at most a little of the input: {error}");
        }
    }
}
