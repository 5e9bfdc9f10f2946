//! What rules would decide: the dry run of `decisionRuleTest`. It reads only.

use std::sync::Arc;

use async_graphql::{Context, Enum, InputObject, OneofObject, SimpleObject};
use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::access::Action;
use crate::agents::deciding::{Candidate, Decided, decide};
use crate::agents::facts::{RefundFacts, Requester, TicketFacts};
use crate::agents::{AgentType, DecisionAction, rules, sql, verbs};
use crate::customers::{AccountStanding, AccountTier};
use crate::db::{Bind, Reading, Row, TenantTx};
use crate::error::Result;
use crate::graphql::entity::Entity as _;
use crate::graphql::money::{CurrencyCode, MoneyInput};
use crate::graphql::mutation::{Checks, UserError, UserErrorCode, VerbError, VerbResult, outcome};
use crate::graphql::session::Session;
use crate::id::{AgentConfigurationId, DecisionRuleId, Id, RefundId};
use crate::refunds::{Refund, RefundReason};
use crate::tickets::{TicketCategory, TicketPriority, TicketStatus};

/// Most requests of a test, real or made up.
const MAX_CASES: usize = 100;
/// Most drafts of a test.
const MAX_DRAFTS: usize = 50;

/// Which rules are tested, and on which requests.
#[derive(Clone, Debug, InputObject)]
pub struct DecisionRuleTestInput {
    /// The agent whose rules are tested, whatever its status. By default the rules of all ACTIVE agents of type REFUND, as for a real
    /// request.
    pub agent_id: Option<AgentConfigurationId>,
    /// Rules to test instead of those of the agent, in their order: at most 50. They need `agentId`, and are not stored.
    pub rules: Option<Vec<DecisionRuleDraftInput>>,
    /// Thresholds to test with instead of those of the agent, which `agentId` names.
    pub thresholds: Option<Value>,
    /// The requests. Required, unless `facts` or `lastRequests` says them.
    pub requests: Option<DecisionRuleTestRequestsInput>,
    /// Requests that are made up: 1 to 100.
    #[graphql(deprecation = "Use `requests: { facts: … }`.")]
    pub facts: Option<Vec<RefundFactsInput>>,
    /// The last real requests, 1 to 100, newest first. Only for who may read refunds.
    #[graphql(deprecation = "Use `requests: { last: … }`.")]
    pub last_requests: Option<i32>,
}

/// The requests of a test: made up, or real.
#[derive(Clone, Debug, OneofObject)]
pub enum DecisionRuleTestRequestsInput {
    /// Requests that are made up: 1 to 100.
    Facts(Vec<RefundFactsInput>),
    /// The last real requests, 1 to 100, newest first. Only for who may read refunds.
    Last(i32),
}

impl DecisionRuleTestInput {
    /// With the requests in the fields where clients wrote them before there was `requests`.
    fn settled(mut self) -> Self {
        if self.facts.is_none() && self.last_requests.is_none() {
            match self.requests.take() {
                Some(DecisionRuleTestRequestsInput::Facts(facts)) => self.facts = Some(facts),
                Some(DecisionRuleTestRequestsInput::Last(count)) => self.last_requests = Some(count),
                None => {}
            }
        }
        self
    }
}

/// A rule that is not stored.
#[derive(Clone, Debug, InputObject)]
pub struct DecisionRuleDraftInput {
    /// Name: at most 200 characters.
    pub name: Option<String>,
    /// Condition of the rule (`JsonLogic`).
    pub conditions: Value,
    /// Decision.
    pub action: DecisionAction,
    /// The rule matches only requests in this currency. A rule that reads an amount needs one.
    pub currency: Option<CurrencyCode>,
}

/// A request for a refund that is made up.
#[derive(Clone, Debug, InputObject)]
pub struct RefundFactsInput {
    /// Amount.
    pub amount: MoneyInput,
    /// Reason.
    pub reason: RefundReason,
    /// Whether the payment that is given back is known; true by default.
    pub has_charge: Option<bool>,
    /// Who asks; PERSON by default.
    pub requested_by: Option<Requester>,
    /// Tier of the customer; STANDARD by default.
    pub tier: Option<AccountTier>,
    /// Standing of the customer; GOOD by default.
    pub standing: Option<AccountStanding>,
    /// Days since the customer came; 0 by default.
    pub age_days: Option<i32>,
    /// Number of the customer's other refunds of the last 365 days; 0 by default.
    pub refunds_last_365_days: Option<i32>,
    /// Sum of those in the currency of `amount`; 0 by default.
    pub refunded_last_365_days: Option<MoneyInput>,
    /// The ticket; none by default.
    pub ticket: Option<TicketFactsInput>,
}

/// A ticket that is made up.
#[derive(Clone, Debug, InputObject)]
pub struct TicketFactsInput {
    /// Status.
    pub status: TicketStatus,
    /// Priority.
    pub priority: TicketPriority,
    /// Category.
    pub category: TicketCategory,
    /// Hours since it was created; 0 by default.
    pub age_hours: Option<i32>,
}

/// How a decision came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
pub enum DecisionOutcome {
    /// A rule matched.
    Rule,
    /// No rule matched: a person decides.
    NoRule,
    /// A rule could not be evaluated: a person decides, whatever the rules behind it say.
    Error,
}

/// What rules would decide about a request.
#[derive(Debug, SimpleObject)]
pub struct DecisionRuleTestCase {
    /// The refund; null when the request is made up.
    pub refund_id: Option<RefundId>,
    /// When it was asked for; null when the request is made up.
    pub requested_at: Option<DateTime<Utc>>,
    /// Whether the facts are those that its decision saw. Otherwise they are made of what is stored now; null when the request is
    /// made up.
    pub facts_are_of_then: Option<bool>,
    /// How the decision would come about.
    pub outcome: DecisionOutcome,
    /// Decision; null when no rule matches.
    pub action: Option<DecisionAction>,
    /// The stored rule that matches; null when none does, and for drafts.
    pub rule_id: Option<DecisionRuleId>,
    /// Place of the rule that matches among those tested, from 0; null when none does.
    pub rule_index: Option<i32>,
    /// Name of the rule that matches; null when none does.
    pub rule_name: Option<String>,
    /// What was decided then; null when no rule matched, and when the request is made up.
    pub decided: Option<DecisionAction>,
    /// Whether the decision would be another than then. No rule is the same as `REQUIRE_APPROVAL`: a person decides. False when the
    /// request is made up.
    pub changed: bool,
    /// The facts, and what each rule says about them.
    pub explanation: Value,
}

/// How many decisions there would be of a kind.
#[derive(Debug, SimpleObject)]
pub struct DecisionRuleTestCount {
    /// The decision; null: no rule.
    pub action: Option<DecisionAction>,
    /// How many there would be.
    pub count: i32,
    /// How many there were; 0 for requests that are made up.
    pub before: i32,
}

/// A test in numbers.
#[derive(Debug, SimpleObject)]
pub struct DecisionRuleTestSummary {
    /// The requests.
    pub cases: i32,
    /// Those that would be decided otherwise than they were.
    pub changed: i32,
    /// Those about which a rule could not be evaluated.
    pub errors: i32,
    /// By decision: every action, and null.
    pub by_action: Vec<DecisionRuleTestCount>,
}

/// The result of `decisionRuleTest`.
#[derive(Debug, SimpleObject)]
pub struct DecisionRuleTestPayload {
    /// The requests, with what would be decided; null when there are errors.
    pub cases: Option<Vec<DecisionRuleTestCase>>,
    /// The test in numbers; null when there are errors.
    pub summary: Option<DecisionRuleTestSummary>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// A request that is tested.
struct Case {
    refund: Option<(RefundId, DateTime<Utc>, Option<DecisionAction>)>,
    are_of_then: Option<bool>,
    facts: RefundFacts,
}

/// Answers `decisionRuleTest`.
///
/// # Errors
/// When the viewer may not read agents, or real requests without the right to read refunds.
pub(super) async fn run(ctx: &Context<'_>, input: DecisionRuleTestInput) -> Result<DecisionRuleTestPayload> {
    let session = Session::of(ctx)?;
    session.require(Action::AgentRead).await?;
    let input = input.settled();
    if input.last_requests.is_some() {
        session.require(Refund::READ).await?;
    }
    let tx = session.read().await?;
    let (cases, user_errors) = outcome(test(&tx, input, session.clock().now()).await)?;
    let summary = cases.as_deref().map(summary);
    Ok(DecisionRuleTestPayload { cases, summary, user_errors })
}

async fn test(
    tx: &TenantTx<Reading>,
    input: DecisionRuleTestInput,
    now: DateTime<Utc>,
) -> VerbResult<Vec<DecisionRuleTestCase>> {
    let made_up = check(&input)?;
    let candidates = candidates(tx, &input).await?;
    let cases = match (made_up, input.last_requests) {
        (Some(made_up), _) => made_up,
        (None, last) => last_requests(tx, last.unwrap_or_default().into()).await?,
    };
    let mut answers = Vec::with_capacity(cases.len());
    for case in cases {
        let decided = decide(tx.tenant().organization_id, &candidates, &case.facts, now);
        answers.push(answer(&case, &candidates, decided));
        // A hundred requests and a hundred rules take milliseconds, which others need not wait for.
        tokio::task::yield_now().await;
    }
    Ok(answers)
}

fn answer(case: &Case, candidates: &[Candidate], decided: Decided) -> DecisionRuleTestCase {
    let outcome = match (decided.by, decided.failed) {
        (Some(_), _) => DecisionOutcome::Rule,
        (None, true) => DecisionOutcome::Error,
        (None, false) => DecisionOutcome::NoRule,
    };
    let then = case.refund.and_then(|(_, _, then)| then);
    let effective = |action: Option<DecisionAction>| action.unwrap_or(DecisionAction::RequireApproval);
    let action = decided.decision.action;
    DecisionRuleTestCase {
        refund_id: case.refund.map(|(id, ..)| id),
        requested_at: case.refund.map(|(_, at, _)| at),
        facts_are_of_then: case.are_of_then,
        outcome,
        action,
        rule_id: decided.decision.rule,
        rule_index: decided.by.and_then(|place| i32::try_from(place).ok()),
        rule_name: decided.by.map(|place| candidates[place].name.clone()),
        decided: then,
        changed: case.refund.is_some() && effective(then) != effective(action),
        explanation: decided.decision.explanation,
    }
}

fn summary(cases: &[DecisionRuleTestCase]) -> DecisionRuleTestSummary {
    let count = |is: &dyn Fn(&DecisionRuleTestCase) -> bool| {
        i32::try_from(cases.iter().filter(|case| is(case)).count()).unwrap_or(i32::MAX)
    };
    let actions = DecisionAction::ALL.iter().copied().map(Some).chain([None]);
    DecisionRuleTestSummary {
        cases: count(&|_| true),
        changed: count(&|case| case.changed),
        errors: count(&|case| case.outcome == DecisionOutcome::Error),
        by_action: actions
            .map(|action| DecisionRuleTestCount {
                action,
                count: count(&|case| case.action == action),
                before: count(&|case| case.refund_id.is_some() && case.decided == action),
            })
            .collect(),
    }
}

/// Checks what needs no row; the requests that are made up.
fn check(input: &DecisionRuleTestInput) -> VerbResult<Option<Vec<Case>>> {
    let mut checks = Checks::default();
    if input.requests.is_some() || input.facts.is_some() == input.last_requests.is_some() {
        let message = "A test takes its requests once: `requests`, with either `facts` or `last`.";
        return Err(VerbError::of_input(UserErrorCode::Invalid, message));
    }
    if input.agent_id.is_none() && (input.rules.is_some() || input.thresholds.is_some()) {
        checks.refuse("agentId", UserErrorCode::Blank, "`rules` and `thresholds` are those of an agent: name it.");
    }
    let cases = i32::try_from(MAX_CASES).unwrap_or(i32::MAX);
    checks.within("lastRequests", input.last_requests, 1..=cases);
    if input.rules.as_ref().is_some_and(|rules| rules.len() > MAX_DRAFTS) {
        checks.refuse("rules", UserErrorCode::TooLong, format!("A test takes at most {MAX_DRAFTS} rules."));
    }
    let Some(facts) = &input.facts else { return checks.finish().map(|()| None) };
    if facts.is_empty() || facts.len() > MAX_CASES {
        checks.refuse("facts", UserErrorCode::Invalid, format!("`facts` takes 1 to {MAX_CASES} requests."));
        return checks.finish().map(|()| None);
    }
    let facts: Vec<Case> = facts
        .iter()
        .map(|facts| Case { refund: None, are_of_then: None, facts: made_up(&mut checks, facts) })
        .collect();
    checks.finish()?;
    Ok(Some(facts))
}

fn made_up(checks: &mut Checks, given: &RefundFactsInput) -> RefundFacts {
    let amount_minor = given.amount.check(checks, "facts", 1);
    let refunded = given.refunded_last_365_days.as_ref();
    if refunded.is_some_and(|refunded| refunded.currency_code != given.amount.currency_code) {
        let message = "`refundedLast365Days` is in the currency of `amount`.";
        checks.refuse("facts", UserErrorCode::CurrencyMismatch, message);
    }
    let ticket = given.ticket.as_ref();
    let counts = [given.age_days, given.refunds_last_365_days, ticket.and_then(|ticket| ticket.age_hours)];
    let [age_days, refunds, age_hours] = counts.map(|count| count.unwrap_or(0));
    if [age_days, refunds, age_hours].iter().any(|count| *count < 0) {
        checks.refuse("facts", UserErrorCode::Invalid, "Ages and numbers are 0 or more.");
    }
    RefundFacts {
        amount_minor,
        currency: given.amount.currency_code.as_str().to_owned(),
        reason: given.reason.label().to_owned(),
        has_charge: given.has_charge.unwrap_or(true),
        requested_by: given.requested_by.unwrap_or(Requester::Person),
        tier: given.tier.unwrap_or(AccountTier::Standard),
        standing: given.standing.unwrap_or(AccountStanding::Good),
        age_days: age_days.into(),
        refunds_last_365_days: refunds.into(),
        refunded_minor_last_365_days: refunded.map_or(0, |refunded| refunded.check(checks, "facts", 0)),
        ticket: ticket.map(|ticket| TicketFacts {
            status: ticket.status,
            priority: ticket.priority,
            category: ticket.category,
            age_hours: age_hours.into(),
        }),
    }
}

/// The rules to test.
async fn candidates(tx: &TenantTx<Reading>, input: &DecisionRuleTestInput) -> VerbResult<Vec<Candidate>> {
    let organization = Bind::Uuid(tx.tenant().organization_id.uuid());
    let Some(agent_id) = input.agent_id else {
        let active = "a.type = 'REFUND' and a.status = 'ACTIVE'";
        return Ok(stored(&tx.fetch(&rules_where(active), &[organization]).await?, None)?);
    };
    let sql = "select type, thresholds from tenantry.agent_configurations where organization_id = $1 and id = $2";
    let found = tx.fetch(sql, &[organization.clone(), Bind::Uuid(agent_id.uuid())]).await?;
    let agent = found.first().ok_or_else(|| verbs::no_such_agent("agentId"))?;
    if agent.try_get::<_, AgentType>(0)? != AgentType::Refund {
        let message = "Only agents of type REFUND decide by rules.";
        return Err(VerbError::user("agentId", UserErrorCode::Invalid, message));
    }
    let thresholds = match &input.thresholds {
        Some(given) => {
            let mut checks = Checks::default();
            let thresholds = verbs::check_thresholds(&mut checks, "thresholds", given);
            checks.finish()?;
            thresholds
        }
        None => sql::object(agent.try_get(1)?),
    };
    let thresholds = Arc::new(thresholds);
    if let Some(drafts) = &input.rules {
        return drafted(agent_id, drafts, &thresholds);
    }
    let rows = tx.fetch(&rules_where("a.id = $2"), &[organization, Bind::Uuid(agent_id.uuid())]).await?;
    Ok(stored(&rows, Some(&thresholds))?)
}

fn rules_where(condition: &str) -> String {
    format!(
        "select a.id, a.thresholds, r.id, r.name, r.rank, r.version, r.action, r.currency, r.conditions
           from tenantry.agent_configurations a
           join tenantry.decision_rules r on r.organization_id = a.organization_id and r.agent_id = a.id
          where a.organization_id = $1 and r.enabled and {condition} order by a.created_at, a.id, r.rank"
    )
}

/// Rules as they are stored, with these thresholds instead of their agents'.
fn stored(rows: &[Row], thresholds: Option<&Arc<Map<String, Value>>>) -> Result<Vec<Candidate>> {
    let mut candidates: Vec<Candidate> = Vec::with_capacity(rows.len());
    for row in rows {
        let agent_id = Id::from_uuid(row.try_get(0)?);
        let thresholds = match thresholds {
            Some(thresholds) => Arc::clone(thresholds),
            None => sql::shared(candidates.last(), agent_id, row.try_get(1)?),
        };
        candidates.push(Candidate {
            agent_id,
            thresholds,
            id: Some(Id::from_uuid(row.try_get(2)?)),
            draft: None,
            name: row.try_get(3)?,
            rank: row.try_get(4)?,
            version: row.try_get(5)?,
            action: row.try_get(6)?,
            currency: row.try_get(7)?,
            conditions: row.try_get(8)?,
        });
    }
    Ok(candidates)
}

/// Drafts, checked as rules are when they are stored.
fn drafted(
    agent_id: AgentConfigurationId,
    drafts: &[DecisionRuleDraftInput],
    thresholds: &Arc<Map<String, Value>>,
) -> VerbResult<Vec<Candidate>> {
    let mut errors = Vec::new();
    let mut candidates = Vec::with_capacity(drafts.len());
    for (place, draft) in (0_i32..).zip(drafts) {
        let index = place.to_string();
        let path = ["rules", &index];
        let name = draft.name.as_deref().unwrap_or_default().trim();
        if name.chars().count() > rules::MAX_NAME {
            let message = format!("`name` takes at most {} characters.", rules::MAX_NAME);
            errors.push(UserError::at(&["rules", &index, "name"], UserErrorCode::TooLong, message));
        }
        let currency = draft.currency.as_ref().map(CurrencyCode::as_str);
        let rule = rules::compile(&mut errors, &path, &draft.conditions, currency, thresholds);
        candidates.push(Candidate {
            agent_id,
            thresholds: Arc::clone(thresholds),
            id: None,
            draft: rule.map(Arc::new),
            name: name.to_owned(),
            rank: place,
            version: 0,
            action: draft.action,
            currency: currency.map(str::to_owned),
            conditions: Value::Null,
        });
    }
    if errors.is_empty() { Ok(candidates) } else { Err(VerbError::User(errors)) }
}

/// The last requests with their facts: those that the decision saw, where it kept them.
async fn last_requests(tx: &TenantTx<Reading>, count: i64) -> Result<Vec<Case>> {
    let binds = [Bind::Uuid(tx.tenant().organization_id.uuid()), Bind::Int(count)];
    tx.fetch(LAST_REQUESTS, &binds).await?.iter().map(request).collect()
}

/// What was asked for here: refunds that were made in Stripe were no requests. Ages and earlier refunds are those of the time of the request; tiers, standings and statuses those of now.
const LAST_REQUESTS: &str = "
    select r.id, r.created_at, r.decision, r.decision_explanation -> 'facts', r.amount_minor, r.currency, r.reason,
           r.stripe_payment_intent_id is not null, r.requested_by is not null, c.tier, c.standing,
           greatest(extract(epoch from r.created_at - c.created_at)::bigint / 86400, 0), e.refunds, e.minor,
           t.status, t.priority, t.category, greatest(extract(epoch from r.created_at - t.created_at)::bigint / 3600, 0)
      from tenantry.refunds r
      join tenantry.customer_profiles c on c.organization_id = r.organization_id and c.id = r.customer_id
      left join tenantry.tickets t on t.organization_id = r.organization_id and t.id = r.ticket_id
      cross join lateral (select count(*) as refunds,
                                 least(coalesce(sum(o.amount_minor) filter (where o.currency = r.currency), 0), 9223372036854775807)::bigint as minor
                            from tenantry.refunds o
                           where o.organization_id = r.organization_id and o.customer_id = r.customer_id and o.id <> r.id
                             and o.created_at > r.created_at - interval '365 days' and o.created_at < r.created_at
                             and o.status_rank not in (3, 6, 7) and r.decision_explanation -> 'facts' is null) e
     where r.organization_id = $1 and not r.made_in_stripe order by r.created_at desc, r.id desc limit $2";

fn request(row: &Row) -> Result<Case> {
    let refund = (RefundId::from_uuid(row.try_get::<_, Uuid>(0)?), row.try_get(1)?, row.try_get(2)?);
    let kept: Option<Value> = row.try_get(3)?;
    if let Some(facts) = kept.as_ref().and_then(RefundFacts::of_value) {
        return Ok(Case { refund: Some(refund), are_of_then: Some(true), facts });
    }
    let is_by_person: bool = row.try_get(8)?;
    let ticket = match (row.try_get(14)?, row.try_get(15)?, row.try_get(16)?, row.try_get(17)?) {
        (Some(status), Some(priority), Some(category), Some(age_hours)) => {
            Some(TicketFacts { status, priority, category, age_hours })
        }
        _ => None,
    };
    let reason: RefundReason = row.try_get(6)?;
    let facts = RefundFacts {
        amount_minor: row.try_get(4)?,
        currency: row.try_get(5)?,
        reason: reason.label().to_owned(),
        has_charge: row.try_get(7)?,
        requested_by: if is_by_person { Requester::Person } else { Requester::Program },
        tier: row.try_get(9)?,
        standing: row.try_get(10)?,
        age_days: row.try_get(11)?,
        refunds_last_365_days: row.try_get(12)?,
        refunded_minor_last_365_days: row.try_get(13)?,
        ticket,
    };
    Ok(Case { refund: Some(refund), are_of_then: Some(false), facts })
}
