//! Denial as data: every root field and every place for an id, asked by every role, a stranger and a foreign owner.
//!
//! What is expected follows from the registry: the action of a mutation, the read action of an entity. Only the requests are
//! written down, and one that is missing fails the gate.

use std::collections::BTreeSet;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tenantry::access::{Action, MemberRole};
use tenantry::schema::{ENTITIES, mutations};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use uuid::Uuid;

use super::sdl::Sdl;
use super::{FOREIGN, OWN, codes, entity, global_id, ids, member};
use crate::support::TestApp;

/// Who may ask for a root field.
#[derive(Clone, Copy, Debug)]
enum Allowed {
    /// Everybody with a token.
    Anybody,
    /// Members whose role allows the action.
    Roles(Action),
    /// Superadmins.
    Platform,
}

/// A request of a root field. `$Ticket` in its variables stands for the id of a ticket.
struct Request {
    root: &'static str,
    allowed: Allowed,
    document: &'static str,
    variables: &'static str,
    /// Where ids stand in the variables (JSON pointer), and which place of the schema that is.
    ids: &'static [(&'static str, &'static str)],
}

const REQUESTS: &[Request] = &[
    Request {
        root: "viewer",
        allowed: Allowed::Anybody,
        document: "{ viewer { user { id } role permissions memberships { role } } }",
        variables: "{}",
        ids: &[],
    },
    Request {
        root: "organization",
        allowed: Allowed::Roles(Action::OrganizationRead),
        document: "{ organization { id } }",
        variables: "{}",
        ids: &[],
    },
    Request {
        root: "node",
        allowed: Allowed::Roles(Action::OrganizationRead),
        document: "query($id: ID!) { node(id: $id) { id } }",
        variables: r#"{ "id": "$Ticket" }"#,
        ids: &[("/id", "Query.node(id)")],
    },
    Request {
        root: "nodes",
        allowed: Allowed::Roles(Action::OrganizationRead),
        document: "query($ids: [ID!]!) { nodes(ids: $ids) { id } }",
        variables: r#"{ "ids": ["$Ticket"] }"#,
        ids: &[("/ids/0", "Query.nodes(ids)")],
    },
    Request {
        root: "platform",
        allowed: Allowed::Platform,
        document: "{ platform { webhookEvents(first: 1) { totalCount } } }",
        variables: "{}",
        ids: &[],
    },
    Request {
        root: "organizationUpdate",
        allowed: Allowed::Roles(Action::OrganizationUpdate),
        document: "mutation($input: OrganizationUpdateInput!) { organizationUpdate(input: $input) { organization { id } userErrors { code field } } }",
        variables: r#"{ "input": { "industry": "Gates" } }"#,
        ids: &[],
    },
    Request {
        root: "ticketCreate",
        allowed: Allowed::Roles(Action::TicketCreate),
        document: "mutation($input: TicketCreateInput!) { ticketCreate(input: $input) { ticket { subject } userErrors { code field } } }",
        variables: r#"{ "input": { "subject": "x", "customerId": "$Customer", "assigneeId": "$Representative" } }"#,
        ids: &[
            ("/input/customerId", "TicketCreateInput.customerId"),
            ("/input/assigneeId", "TicketCreateInput.assigneeId"),
        ],
    },
    Request {
        root: "ticketUpdate",
        allowed: Allowed::Roles(Action::TicketUpdate),
        document: "mutation($input: TicketUpdateInput!) { ticketUpdate(input: $input) { ticket { subject } userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$Ticket", "subject": "x", "customerId": "$Customer", "assigneeId": "$Representative" } }"#,
        ids: &[
            ("/input/id", "TicketUpdateInput.id"),
            ("/input/customerId", "TicketUpdateInput.customerId"),
            ("/input/assigneeId", "TicketUpdateInput.assigneeId"),
        ],
    },
    Request {
        root: "ticketMessageAdd",
        allowed: Allowed::Roles(Action::TicketMessageAdd),
        document: "mutation($input: TicketMessageAddInput!) { ticketMessageAdd(input: $input) { message { body } userErrors { code field } } }",
        variables: r#"{ "input": { "ticketId": "$Ticket", "body": "x", "customerId": "$Customer" } }"#,
        ids: &[
            ("/input/ticketId", "TicketMessageAddInput.ticketId"),
            ("/input/customerId", "TicketMessageAddInput.customerId"),
        ],
    },
    Request {
        root: "ticketsUpdate",
        allowed: Allowed::Roles(Action::TicketUpdate),
        document: "mutation($input: TicketsUpdateInput!) { ticketsUpdate(input: $input) { results { ticket { subject } userErrors { code field } } userErrors { code field } } }",
        variables: r#"{ "input": { "ids": ["$Ticket"], "priority": "HIGH", "assigneeId": "$Representative" } }"#,
        ids: &[("/input/ids/0", "TicketsUpdateInput.ids"), ("/input/assigneeId", "TicketsUpdateInput.assigneeId")],
    },
    Request {
        root: "ticketAssign",
        allowed: Allowed::Roles(Action::TicketUpdate),
        document: "mutation($input: TicketAssignInput!) { ticketAssign(input: $input) { ticket { subject } userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$Ticket", "representativeId": "$Representative" } }"#,
        ids: &[
            ("/input/id", "TicketAssignInput.id"),
            ("/input/representativeId", "TicketAssignInput.representativeId"),
        ],
    },
    Request {
        root: "ticketMerge",
        allowed: Allowed::Roles(Action::TicketUpdate),
        document: "mutation($input: TicketMergeInput!) { ticketMerge(input: $input) { ticket { subject } into { subject } userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$Ticket", "intoId": "$Ticket" } }"#,
        ids: &[("/input/id", "TicketMergeInput.id"), ("/input/intoId", "TicketMergeInput.intoId")],
    },
    Request {
        root: "ticketSplit",
        allowed: Allowed::Roles(Action::TicketUpdate),
        document: "mutation($input: TicketSplitInput!) { ticketSplit(input: $input) { ticket { subject } userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$Ticket", "messageIds": ["$TicketMessage"], "subject": "x" } }"#,
        ids: &[("/input/id", "TicketSplitInput.id"), ("/input/messageIds/0", "TicketSplitInput.messageIds")],
    },
    Request {
        root: "ticketWatch",
        allowed: Allowed::Roles(Action::TicketWatch),
        document: "mutation($input: TicketWatchInput!) { ticketWatch(input: $input) { ticket { subject } userErrors { code field } } }",
        variables: r#"{ "input": { "ticketId": "$Ticket", "userId": "$User" } }"#,
        ids: &[("/input/ticketId", "TicketWatchInput.ticketId"), ("/input/userId", "TicketWatchInput.userId")],
    },
    Request {
        root: "ticketUnwatch",
        allowed: Allowed::Roles(Action::TicketWatch),
        document: "mutation($input: TicketUnwatchInput!) { ticketUnwatch(input: $input) { ticket { subject } userErrors { code field } } }",
        variables: r#"{ "input": { "ticketId": "$Ticket", "userId": "$User" } }"#,
        ids: &[("/input/ticketId", "TicketUnwatchInput.ticketId"), ("/input/userId", "TicketUnwatchInput.userId")],
    },
    Request {
        root: "ticketMessageUpdate",
        allowed: Allowed::Roles(Action::TicketMessageAdd),
        document: "mutation($input: TicketMessageUpdateInput!) { ticketMessageUpdate(input: $input) { message { body } userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$TicketMessage", "body": "x" } }"#,
        ids: &[("/input/id", "TicketMessageUpdateInput.id")],
    },
    Request {
        root: "ticketMessageDelete",
        allowed: Allowed::Roles(Action::TicketMessageAdd),
        document: "mutation($input: TicketMessageDeleteInput!) { ticketMessageDelete(input: $input) { message { body } userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$TicketMessage" } }"#,
        ids: &[("/input/id", "TicketMessageDeleteInput.id")],
    },
    Request {
        root: "ticketFieldCreate",
        allowed: Allowed::Roles(Action::TicketConfigure),
        document: "mutation($input: TicketFieldCreateInput!) { ticketFieldCreate(input: $input) { ticketField { key } userErrors { code field } } }",
        variables: r#"{ "input": { "key": "x", "name": "x", "type": "TEXT" } }"#,
        ids: &[],
    },
    Request {
        root: "ticketFieldUpdate",
        allowed: Allowed::Roles(Action::TicketConfigure),
        document: "mutation($input: TicketFieldUpdateInput!) { ticketFieldUpdate(input: $input) { ticketField { key } userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$TicketField", "name": "x" } }"#,
        ids: &[("/input/id", "TicketFieldUpdateInput.id")],
    },
    Request {
        root: "ticketViewCreate",
        allowed: Allowed::Roles(Action::TicketViewWrite),
        document: "mutation($input: TicketViewCreateInput!) { ticketViewCreate(input: $input) { ticketView { name } userErrors { code field } } }",
        variables: r#"{ "input": { "name": "x" } }"#,
        ids: &[],
    },
    Request {
        root: "ticketViewUpdate",
        allowed: Allowed::Roles(Action::TicketViewWrite),
        document: "mutation($input: TicketViewUpdateInput!) { ticketViewUpdate(input: $input) { ticketView { name } userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$TicketView", "name": "x" } }"#,
        ids: &[("/input/id", "TicketViewUpdateInput.id")],
    },
    Request {
        root: "ticketViewDelete",
        allowed: Allowed::Roles(Action::TicketViewWrite),
        document: "mutation($input: TicketViewDeleteInput!) { ticketViewDelete(input: $input) { ticketViewId userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$TicketView" } }"#,
        ids: &[("/input/id", "TicketViewDeleteInput.id")],
    },
    Request {
        root: "customerCreate",
        allowed: Allowed::Roles(Action::CustomerWrite),
        document: "mutation($input: CustomerCreateInput!) { customerCreate(input: $input) { customer { name } userErrors { code field } } }",
        variables: r#"{ "input": { "email": "gate@example.com", "name": "x" } }"#,
        ids: &[],
    },
    Request {
        root: "customerUpdate",
        allowed: Allowed::Roles(Action::CustomerWrite),
        document: "mutation($input: CustomerUpdateInput!) { customerUpdate(input: $input) { customer { name } userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$Customer", "company": "x" } }"#,
        ids: &[("/input/id", "CustomerUpdateInput.id")],
    },
    Request {
        root: "customerArchive",
        allowed: Allowed::Roles(Action::CustomerWrite),
        document: "mutation($input: CustomerArchiveInput!) { customerArchive(input: $input) { customer { name } userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$Customer" } }"#,
        ids: &[("/input/id", "CustomerArchiveInput.id")],
    },
    Request {
        root: "customerMerge",
        allowed: Allowed::Roles(Action::CustomerMerge),
        document: "mutation($input: CustomerMergeInput!) { customerMerge(input: $input) { customer { name } userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$Customer", "intoId": "$Customer" } }"#,
        ids: &[("/input/id", "CustomerMergeInput.id"), ("/input/intoId", "CustomerMergeInput.intoId")],
    },
    Request {
        root: "representativeCreate",
        allowed: Allowed::Roles(Action::RepresentativeWrite),
        document: "mutation($input: RepresentativeCreateInput!) { representativeCreate(input: $input) { representative { capacity } userErrors { code field } } }",
        variables: r#"{ "input": { "userId": "$User" } }"#,
        ids: &[("/input/userId", "RepresentativeCreateInput.userId")],
    },
    Request {
        root: "representativeUpdate",
        allowed: Allowed::Roles(Action::RepresentativeWrite),
        document: "mutation($input: RepresentativeUpdateInput!) { representativeUpdate(input: $input) { representative { capacity } userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$Representative", "capacity": 9 } }"#,
        ids: &[("/input/id", "RepresentativeUpdateInput.id")],
    },
    Request {
        root: "representativeStatusSet",
        allowed: Allowed::Roles(Action::RepresentativeStatusSet),
        document: "mutation($input: RepresentativeStatusSetInput!) { representativeStatusSet(input: $input) { representative { capacity } userErrors { code field } } }",
        variables: r#"{ "input": { "status": "AWAY" } }"#,
        ids: &[],
    },
    Request {
        root: "representativeRemove",
        allowed: Allowed::Roles(Action::RepresentativeWrite),
        document: "mutation($input: RepresentativeRemoveInput!) { representativeRemove(input: $input) { representative { capacity } userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$Representative", "expectedVersion": 99 } }"#,
        ids: &[("/input/id", "RepresentativeRemoveInput.id")],
    },
    Request {
        root: "representativeAbsenceCreate",
        allowed: Allowed::Roles(Action::RepresentativeStatusSet),
        document: "mutation($input: RepresentativeAbsenceCreateInput!) { representativeAbsenceCreate(input: $input) { absence { note } userErrors { code field } } }",
        variables: r#"{ "input": { "representativeId": "$Representative", "endsAt": "2000-01-01T00:00:00Z" } }"#,
        ids: &[("/input/representativeId", "RepresentativeAbsenceCreateInput.representativeId")],
    },
    Request {
        root: "representativeAbsenceDelete",
        allowed: Allowed::Roles(Action::RepresentativeStatusSet),
        document: "mutation($input: RepresentativeAbsenceDeleteInput!) { representativeAbsenceDelete(input: $input) { absenceId userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$RepresentativeAbsence" } }"#,
        ids: &[("/input/id", "RepresentativeAbsenceDeleteInput.id")],
    },
    Request {
        root: "escalationCreate",
        allowed: Allowed::Roles(Action::EscalationWrite),
        document: "mutation($input: EscalationCreateInput!) { escalationCreate(input: $input) { escalation { status } userErrors { code field } } }",
        variables: r#"{ "input": { "ticketId": "$Ticket", "reason": "OTHER", "assigneeId": "$Representative" } }"#,
        ids: &[
            ("/input/ticketId", "EscalationCreateInput.ticketId"),
            ("/input/assigneeId", "EscalationCreateInput.assigneeId"),
        ],
    },
    Request {
        root: "escalationAssign",
        allowed: Allowed::Roles(Action::EscalationWrite),
        document: "mutation($input: EscalationAssignInput!) { escalationAssign(input: $input) { escalation { status } userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$Escalation", "representativeId": "$Representative" } }"#,
        ids: &[
            ("/input/id", "EscalationAssignInput.id"),
            ("/input/representativeId", "EscalationAssignInput.representativeId"),
        ],
    },
    Request {
        root: "escalationUpdate",
        allowed: Allowed::Roles(Action::EscalationWrite),
        document: "mutation($input: EscalationUpdateInput!) { escalationUpdate(input: $input) { escalation { status } userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$Escalation", "priority": "HIGH" } }"#,
        ids: &[("/input/id", "EscalationUpdateInput.id")],
    },
    Request {
        root: "escalationStart",
        allowed: Allowed::Roles(Action::EscalationWrite),
        document: "mutation($input: EscalationStartInput!) { escalationStart(input: $input) { escalation { status } userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$Escalation" } }"#,
        ids: &[("/input/id", "EscalationStartInput.id")],
    },
    Request {
        root: "escalationResolve",
        allowed: Allowed::Roles(Action::EscalationWrite),
        document: "mutation($input: EscalationResolveInput!) { escalationResolve(input: $input) { escalation { status } userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$Escalation", "resolution": "x" } }"#,
        ids: &[("/input/id", "EscalationResolveInput.id")],
    },
    Request {
        root: "escalationCancel",
        allowed: Allowed::Roles(Action::EscalationWrite),
        document: "mutation($input: EscalationCancelInput!) { escalationCancel(input: $input) { escalation { status } userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$Escalation" } }"#,
        ids: &[("/input/id", "EscalationCancelInput.id")],
    },
    Request {
        root: "escalationNoticeSee",
        allowed: Allowed::Roles(Action::TicketWatch),
        document: "mutation($input: EscalationNoticeSeeInput!) { escalationNoticeSee(input: $input) { notice { seenAt } userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$EscalationNotice" } }"#,
        ids: &[("/input/id", "EscalationNoticeSeeInput.id")],
    },
    Request {
        root: "businessCalendarCreate",
        allowed: Allowed::Roles(Action::TicketConfigure),
        document: "mutation($input: BusinessCalendarCreateInput!) { businessCalendarCreate(input: $input) { calendar { name } userErrors { code field } } }",
        variables: r#"{ "input": { "name": "x", "timeZone": "UTC", "hours": [{ "day": "MONDAY", "from": "09:00", "to": "17:00" }] } }"#,
        ids: &[],
    },
    Request {
        root: "businessCalendarUpdate",
        allowed: Allowed::Roles(Action::TicketConfigure),
        document: "mutation($input: BusinessCalendarUpdateInput!) { businessCalendarUpdate(input: $input) { calendar { name } userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$BusinessCalendar", "name": "y" } }"#,
        ids: &[("/input/id", "BusinessCalendarUpdateInput.id")],
    },
    Request {
        root: "slaPolicyCreate",
        allowed: Allowed::Roles(Action::TicketConfigure),
        document: "mutation($input: SlaPolicyCreateInput!) { slaPolicyCreate(input: $input) { policy { name } userErrors { code field } } }",
        variables: r#"{ "input": { "name": "x", "rank": 1, "calendarId": "$BusinessCalendar" } }"#,
        ids: &[("/input/calendarId", "SlaPolicyCreateInput.calendarId")],
    },
    Request {
        root: "slaPolicyUpdate",
        allowed: Allowed::Roles(Action::TicketConfigure),
        document: "mutation($input: SlaPolicyUpdateInput!) { slaPolicyUpdate(input: $input) { policy { name } userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$SlaPolicy", "calendarId": "$BusinessCalendar" } }"#,
        ids: &[("/input/id", "SlaPolicyUpdateInput.id"), ("/input/calendarId", "SlaPolicyUpdateInput.calendarId")],
    },
    Request {
        root: "businessCalendarDelete",
        allowed: Allowed::Roles(Action::TicketConfigure),
        document: "mutation($input: BusinessCalendarDeleteInput!) { businessCalendarDelete(input: $input) { calendarId userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$BusinessCalendar" } }"#,
        ids: &[("/input/id", "BusinessCalendarDeleteInput.id")],
    },
    Request {
        root: "escalationRuleCreate",
        allowed: Allowed::Roles(Action::EscalationConfigure),
        document: "mutation($input: EscalationRuleCreateInput!) { escalationRuleCreate(input: $input) { rule { name } userErrors { code field } } }",
        variables: r#"{ "input": { "name": "x", "userId": "$User", "assigneeId": "$Representative" } }"#,
        ids: &[
            ("/input/userId", "EscalationRuleCreateInput.userId"),
            ("/input/assigneeId", "EscalationRuleCreateInput.assigneeId"),
        ],
    },
    Request {
        root: "escalationRuleUpdate",
        allowed: Allowed::Roles(Action::EscalationConfigure),
        document: "mutation($input: EscalationRuleUpdateInput!) { escalationRuleUpdate(input: $input) { rule { name } userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$EscalationRule", "userId": "$User", "assigneeId": "$Representative" } }"#,
        ids: &[
            ("/input/id", "EscalationRuleUpdateInput.id"),
            ("/input/userId", "EscalationRuleUpdateInput.userId"),
            ("/input/assigneeId", "EscalationRuleUpdateInput.assigneeId"),
        ],
    },
    Request {
        root: "escalationRuleDelete",
        allowed: Allowed::Roles(Action::EscalationConfigure),
        document: "mutation($input: EscalationRuleDeleteInput!) { escalationRuleDelete(input: $input) { ruleId userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$EscalationRule" } }"#,
        ids: &[("/input/id", "EscalationRuleDeleteInput.id")],
    },
    Request {
        root: "customerChanged",
        allowed: Allowed::Roles(Action::OrganizationRead),
        document: "subscription($id: ID) { customerChanged(id: $id) { customer { id } } }",
        variables: r#"{ "id": "$Customer" }"#,
        ids: &[("/id", "SubscriptionRoot.customerChanged(id)")],
    },
    Request {
        root: "representativeChanged",
        allowed: Allowed::Roles(Action::OrganizationRead),
        document: "subscription($id: ID) { representativeChanged(id: $id) { representative { id } } }",
        variables: r#"{ "id": "$Representative" }"#,
        ids: &[("/id", "SubscriptionRoot.representativeChanged(id)")],
    },
    Request {
        root: "escalationChanged",
        allowed: Allowed::Roles(Action::OrganizationRead),
        document: "subscription($id: ID, $whose: ID) { escalationChanged(id: $id, assignedToId: $whose) { escalation { id } } }",
        variables: r#"{ "id": "$Escalation", "whose": "$Representative" }"#,
        ids: &[
            ("/id", "SubscriptionRoot.escalationChanged(id)"),
            ("/whose", "SubscriptionRoot.escalationChanged(assignedToId)"),
        ],
    },
    Request {
        root: "slaEventOccurred",
        allowed: Allowed::Roles(Action::OrganizationRead),
        document: "subscription($ticket: ID) { slaEventOccurred(ticketId: $ticket, kind: BREACH) { event { id } } }",
        variables: r#"{ "ticket": "$Ticket" }"#,
        ids: &[("/ticket", "SubscriptionRoot.slaEventOccurred(ticketId)")],
    },
    Request {
        root: "escalationNoticed",
        allowed: Allowed::Roles(Action::OrganizationRead),
        document: "subscription { escalationNoticed { notice { id } } }",
        variables: "{}",
        ids: &[],
    },
    Request {
        root: "agentCreate",
        allowed: Allowed::Roles(Action::AgentWrite),
        document: "mutation($input: AgentCreateInput!) { agentCreate(input: $input) { agent { name } userErrors { code field } } }",
        variables: r#"{ "input": { "name": "gate", "type": "QUALITY" } }"#,
        ids: &[],
    },
    Request {
        root: "agentUpdate",
        allowed: Allowed::Roles(Action::AgentWrite),
        document: "mutation($input: AgentUpdateInput!) { agentUpdate(input: $input) { agent { name } userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$AgentConfiguration", "name": "gate" } }"#,
        ids: &[("/input/id", "AgentUpdateInput.id")],
    },
    Request {
        root: "decisionRuleCreate",
        allowed: Allowed::Roles(Action::AgentWrite),
        document: "mutation($input: DecisionRuleCreateInput!) { decisionRuleCreate(input: $input) { rule { name } userErrors { code field } } }",
        variables: r#"{ "input": { "agentId": "$AgentConfiguration", "name": "gate", "conditions": true, "action": "DENY" } }"#,
        ids: &[("/input/agentId", "DecisionRuleCreateInput.agentId")],
    },
    Request {
        root: "decisionRuleUpdate",
        allowed: Allowed::Roles(Action::AgentWrite),
        document: "mutation($input: DecisionRuleUpdateInput!) { decisionRuleUpdate(input: $input) { rule { name } userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$DecisionRule", "name": "gate" } }"#,
        ids: &[("/input/id", "DecisionRuleUpdateInput.id")],
    },
    Request {
        root: "decisionRulesReorder",
        allowed: Allowed::Roles(Action::AgentWrite),
        document: "mutation($input: DecisionRulesReorderInput!) { decisionRulesReorder(input: $input) { agent { name } userErrors { code field } } }",
        variables: r#"{ "input": { "agentId": "$AgentConfiguration", "ruleIds": ["$DecisionRule"] } }"#,
        ids: &[
            ("/input/agentId", "DecisionRulesReorderInput.agentId"),
            ("/input/ruleIds/0", "DecisionRulesReorderInput.ruleIds"),
        ],
    },
    Request {
        root: "decisionRuleDelete",
        allowed: Allowed::Roles(Action::AgentWrite),
        document: "mutation($input: DecisionRuleDeleteInput!) { decisionRuleDelete(input: $input) { ruleId userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$DecisionRule" } }"#,
        ids: &[("/input/id", "DecisionRuleDeleteInput.id")],
    },
    Request {
        root: "decisionRuleTest",
        allowed: Allowed::Roles(Action::AgentRead),
        document: "query($input: DecisionRuleTestInput!) { decisionRuleTest(input: $input) { cases { outcome } userErrors { code field } } }",
        variables: r#"{ "input": { "agentId": "$AgentConfiguration", "lastRequests": 3 } }"#,
        ids: &[("/input/agentId", "DecisionRuleTestInput.agentId")],
    },
    Request {
        root: "budgetCreate",
        allowed: Allowed::Roles(Action::BudgetWrite),
        document: "mutation($input: BudgetCreateInput!) { budgetCreate(input: $input) { budget { name } userErrors { code field } } }",
        variables: r#"{ "input": { "type": "CREDIT", "name": "gate", "period": "DAY", "limit": { "amount": "1", "currencyCode": "EUR" } } }"#,
        ids: &[],
    },
    Request {
        root: "budgetUpdate",
        allowed: Allowed::Roles(Action::BudgetWrite),
        document: "mutation($input: BudgetUpdateInput!) { budgetUpdate(input: $input) { budget { name } userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$Budget", "name": "gate" } }"#,
        ids: &[("/input/id", "BudgetUpdateInput.id")],
    },
    Request {
        root: "budgetSpend",
        allowed: Allowed::Roles(Action::BudgetSpend),
        document: "mutation($input: BudgetSpendInput!) { budgetSpend(input: $input) { usageRecords { kind } userErrors { code field } } }",
        variables: r#"{ "input": { "budgetIds": ["$Budget"], "amount": { "amount": "0.01", "currencyCode": "USD" }, "source": "gate", "idempotencyKey": "gate-spend" } }"#,
        ids: &[("/input/budgetIds/0", "BudgetSpendInput.budgetIds")],
    },
    Request {
        root: "budgetReserve",
        allowed: Allowed::Roles(Action::BudgetSpend),
        document: "mutation($input: BudgetReserveInput!) { budgetReserve(input: $input) { reservation { status } userErrors { code field } } }",
        variables: r#"{ "input": { "budgetIds": ["$Budget"], "amount": { "amount": "0.01", "currencyCode": "USD" }, "source": "gate", "idempotencyKey": "gate-reserve" } }"#,
        ids: &[("/input/budgetIds/0", "BudgetReserveInput.budgetIds")],
    },
    Request {
        root: "budgetSettle",
        allowed: Allowed::Roles(Action::BudgetSpend),
        document: "mutation($input: BudgetSettleInput!) { budgetSettle(input: $input) { reservation { status } userErrors { code field } } }",
        variables: r#"{ "input": { "reservationId": "$BudgetReservation", "idempotencyKey": "gate-settle" } }"#,
        ids: &[("/input/reservationId", "BudgetSettleInput.reservationId")],
    },
    Request {
        root: "budgetRelease",
        allowed: Allowed::Roles(Action::BudgetSpend),
        document: "mutation($input: BudgetReleaseInput!) { budgetRelease(input: $input) { reservation { status } userErrors { code field } } }",
        variables: r#"{ "input": { "reservationId": "$BudgetReservation", "idempotencyKey": "gate-release" } }"#,
        ids: &[("/input/reservationId", "BudgetReleaseInput.reservationId")],
    },
    Request {
        root: "budgetArchive",
        allowed: Allowed::Roles(Action::BudgetWrite),
        document: "mutation($input: BudgetArchiveInput!) { budgetArchive(input: $input) { budget { name } userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$Budget" } }"#,
        ids: &[("/input/id", "BudgetArchiveInput.id")],
    },
    Request {
        root: "refundRequest",
        allowed: Allowed::Roles(Action::RefundWrite),
        document: "mutation($input: RefundRequestInput!) { refundRequest(input: $input) { refund { status } userErrors { code field } } }",
        variables: r#"{ "input": { "customerId": "$Customer", "ticketId": "$Ticket", "budgetId": "$Budget", "amount": { "amount": "0.01", "currencyCode": "USD" }, "reason": "OTHER", "idempotencyKey": "gate-refund" } }"#,
        ids: &[
            ("/input/customerId", "RefundRequestInput.customerId"),
            ("/input/ticketId", "RefundRequestInput.ticketId"),
            ("/input/budgetId", "RefundRequestInput.budgetId"),
        ],
    },
    Request {
        root: "refundApprove",
        allowed: Allowed::Roles(Action::RefundApprove),
        document: "mutation($input: RefundApproveInput!) { refundApprove(input: $input) { refund { status } userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$Refund", "idempotencyKey": "gate-approve" } }"#,
        ids: &[("/input/id", "RefundApproveInput.id")],
    },
    Request {
        root: "refundDeny",
        allowed: Allowed::Roles(Action::RefundApprove),
        document: "mutation($input: RefundDenyInput!) { refundDeny(input: $input) { refund { status } userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$Refund", "note": "x" } }"#,
        ids: &[("/input/id", "RefundDenyInput.id")],
    },
    Request {
        root: "refundEscalate",
        allowed: Allowed::Roles(Action::RefundWrite),
        document: "mutation($input: RefundEscalateInput!) { refundEscalate(input: $input) { refund { status } userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$Refund" } }"#,
        ids: &[("/input/id", "RefundEscalateInput.id")],
    },
    Request {
        root: "refundCancel",
        allowed: Allowed::Roles(Action::RefundWrite),
        document: "mutation($input: RefundCancelInput!) { refundCancel(input: $input) { refund { status } userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$Refund" } }"#,
        ids: &[("/input/id", "RefundCancelInput.id")],
    },
    Request {
        root: "refundRetry",
        allowed: Allowed::Roles(Action::RefundApprove),
        document: "mutation($input: RefundRetryInput!) { refundRetry(input: $input) { refund { status } userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$Refund", "idempotencyKey": "gate-retry" } }"#,
        ids: &[("/input/id", "RefundRetryInput.id")],
    },
    Request {
        root: "refundMarkPaid",
        allowed: Allowed::Roles(Action::RefundApprove),
        document: "mutation($input: RefundMarkPaidInput!) { refundMarkPaid(input: $input) { refund { status } userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$Refund", "reference": "x", "idempotencyKey": "gate-paid" } }"#,
        ids: &[("/input/id", "RefundMarkPaidInput.id")],
    },
    Request {
        root: "refundPolicyUpdate",
        allowed: Allowed::Roles(Action::RefundConfigure),
        document: "mutation($input: RefundPolicyUpdateInput!) { refundPolicyUpdate(input: $input) { organization { id } userErrors { code field } } }",
        variables: r#"{ "input": { "fourEyesAbove": null } }"#,
        ids: &[],
    },
    Request {
        root: "refundChanged",
        allowed: Allowed::Roles(Action::RefundRead),
        document: "subscription($id: ID) { refundChanged(id: $id) { refund { status } } }",
        variables: r#"{ "id": "$Refund" }"#,
        ids: &[("/id", "SubscriptionRoot.refundChanged(id)")],
    },
    Request {
        root: "budgetAlert",
        allowed: Allowed::Roles(Action::BudgetRead),
        document: "subscription($id: ID) { budgetAlert(budgetId: $id) { alert { id } } }",
        variables: r#"{ "id": "$Budget" }"#,
        ids: &[("/id", "SubscriptionRoot.budgetAlert(budgetId)")],
    },
    Request {
        root: "billingCheckoutCreate",
        allowed: Allowed::Roles(Action::BillingManage),
        document: "mutation($input: BillingCheckoutCreateInput!) { billingCheckoutCreate(input: $input) { action { status } userErrors { code field } } }",
        variables: r#"{ "input": { "plan": "PRO", "idempotencyKey": "gate-checkout" } }"#,
        ids: &[],
    },
    Request {
        root: "billingPortalCreate",
        allowed: Allowed::Roles(Action::BillingManage),
        document: "mutation($input: BillingPortalCreateInput!) { billingPortalCreate(input: $input) { action { status } userErrors { code field } } }",
        variables: r#"{ "input": { "idempotencyKey": "gate-portal" } }"#,
        ids: &[],
    },
    Request {
        root: "billingPlanPreview",
        allowed: Allowed::Roles(Action::BillingManage),
        document: "mutation($input: BillingPlanPreviewInput!) { billingPlanPreview(input: $input) { preview { seats } userErrors { code field } } }",
        variables: r#"{ "input": { "plan": "PRO" } }"#,
        ids: &[],
    },
    Request {
        root: "billingPlanChange",
        allowed: Allowed::Roles(Action::BillingManage),
        document: "mutation($input: BillingPlanChangeInput!) { billingPlanChange(input: $input) { action { status } userErrors { code field } } }",
        variables: r#"{ "input": { "plan": "PRO", "prorationDate": "2030-01-01T00:00:00Z", "expectedDue": { "amount": "1.00", "currencyCode": "USD" }, "idempotencyKey": "gate-change" } }"#,
        ids: &[],
    },
    Request {
        root: "billingCancel",
        allowed: Allowed::Roles(Action::BillingManage),
        document: "mutation($input: BillingCancelInput!) { billingCancel(input: $input) { action { status } userErrors { code field } } }",
        variables: r#"{ "input": { "idempotencyKey": "gate-cancel" } }"#,
        ids: &[],
    },
    Request {
        root: "billingResume",
        allowed: Allowed::Roles(Action::BillingManage),
        document: "mutation($input: BillingResumeInput!) { billingResume(input: $input) { action { status } userErrors { code field } } }",
        variables: r#"{ "input": { "idempotencyKey": "gate-resume" } }"#,
        ids: &[],
    },
    Request {
        root: "subscriptionChanged",
        allowed: Allowed::Roles(Action::BillingRead),
        document: "subscription { subscriptionChanged { subscription { status } } }",
        variables: "{}",
        ids: &[],
    },
    Request {
        root: "webhookEventReplay",
        allowed: Allowed::Roles(Action::WebhookReplay),
        document: "mutation($input: WebhookEventReplayInput!) { webhookEventReplay(input: $input) { webhookEvent { eventId } userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$WebhookEvent" } }"#,
        ids: &[("/input/id", "WebhookEventReplayInput.id")],
    },
    Request {
        root: "ticketChanged",
        allowed: Allowed::Roles(Action::OrganizationRead),
        document: "subscription($id: ID) { ticketChanged(id: $id) { ticket { id } } }",
        variables: r#"{ "id": "$Ticket" }"#,
        ids: &[("/id", "SubscriptionRoot.ticketChanged(id)")],
    },
    Request {
        root: "ticketMessageAdded",
        allowed: Allowed::Roles(Action::OrganizationRead),
        document: "subscription($id: ID) { ticketMessageAdded(ticketId: $id) { message { id } } }",
        variables: r#"{ "id": "$Ticket" }"#,
        ids: &[("/id", "SubscriptionRoot.ticketMessageAdded(ticketId)")],
    },
    Request {
        root: "invitationCreate",
        allowed: Allowed::Roles(Action::InvitationWrite),
        document: "mutation($input: InvitationCreateInput!) { invitationCreate(input: $input) { invitation { email } userErrors { code field } } }",
        variables: r#"{ "input": { "email": "gate@example.com", "customRoleId": "$CustomRole" } }"#,
        ids: &[("/input/customRoleId", "InvitationCreateInput.customRoleId")],
    },
    Request {
        root: "invitationsCreate",
        allowed: Allowed::Roles(Action::InvitationWrite),
        document: "mutation($input: InvitationsCreateInput!) { invitationsCreate(input: $input) { results { invitationId userErrors { code field } } userErrors { code field } } }",
        variables: r#"{ "input": { "invitations": [{ "email": "gates@example.com", "customRoleId": "$CustomRole" }] } }"#,
        ids: &[("/input/invitations/0/customRoleId", "InvitationEntryInput.customRoleId")],
    },
    Request {
        root: "invitationResend",
        allowed: Allowed::Roles(Action::InvitationWrite),
        document: "mutation($input: InvitationResendInput!) { invitationResend(input: $input) { invitation { email } userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$Invitation" } }"#,
        ids: &[("/input/id", "InvitationResendInput.id")],
    },
    Request {
        root: "invitationRevoke",
        allowed: Allowed::Roles(Action::InvitationWrite),
        document: "mutation($input: InvitationRevokeInput!) { invitationRevoke(input: $input) { invitation { email } userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$Invitation" } }"#,
        ids: &[("/input/id", "InvitationRevokeInput.id")],
    },
    Request {
        root: "organizationCreate",
        allowed: Allowed::Anybody,
        document: "mutation($input: OrganizationCreateInput!) { organizationCreate(input: $input) { membership { role } userErrors { code field } } }",
        variables: r#"{ "input": { "name": "Gates" } }"#,
        ids: &[],
    },
    Request {
        root: "invitationAccept",
        allowed: Allowed::Anybody,
        document: "mutation($input: InvitationAcceptInput!) { invitationAccept(input: $input) { membership { role } userErrors { code field } } }",
        variables: r#"{ "input": { "token": "inv_nobody" } }"#,
        ids: &[],
    },
    Request {
        root: "organizationSwitch",
        allowed: Allowed::Anybody,
        document: "mutation($input: OrganizationSwitchInput!) { organizationSwitch(input: $input) { membership { role } userErrors { code field } } }",
        variables: r#"{ "input": { "organizationId": "$Organization" } }"#,
        ids: &[("/input/organizationId", "OrganizationSwitchInput.organizationId")],
    },
    Request {
        root: "organizationMemberUpdate",
        allowed: Allowed::Roles(Action::MemberUpdate),
        document: "mutation($input: OrganizationMemberUpdateInput!) { organizationMemberUpdate(input: $input) { member { role } userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$OrganizationMember", "customRoleId": "$CustomRole" } }"#,
        ids: &[
            ("/input/id", "OrganizationMemberUpdateInput.id"),
            ("/input/customRoleId", "OrganizationMemberUpdateInput.customRoleId"),
        ],
    },
    Request {
        root: "apiKeyCreate",
        allowed: Allowed::Roles(Action::ApiKeyWrite),
        document: "mutation($input: ApiKeyCreateInput!) { apiKeyCreate(input: $input) { apiKey { name } userErrors { code field } } }",
        variables: r#"{ "input": { "name": "gate", "scopes": ["ORGANIZATION_READ"] } }"#,
        ids: &[],
    },
    Request {
        root: "apiKeyRotate",
        allowed: Allowed::Roles(Action::ApiKeyWrite),
        document: "mutation($input: ApiKeyRotateInput!) { apiKeyRotate(input: $input) { apiKey { name } userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$ApiKey" } }"#,
        ids: &[("/input/id", "ApiKeyRotateInput.id")],
    },
    Request {
        root: "apiKeyRevoke",
        allowed: Allowed::Roles(Action::ApiKeyWrite),
        document: "mutation($input: ApiKeyRevokeInput!) { apiKeyRevoke(input: $input) { apiKey { name } userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$ApiKey" } }"#,
        ids: &[("/input/id", "ApiKeyRevokeInput.id")],
    },
    Request {
        root: "clientKeyCreate",
        allowed: Allowed::Roles(Action::ApiKeyWrite),
        document: "mutation($input: ClientKeyCreateInput!) { clientKeyCreate(input: $input) { clientKey { name } userErrors { code field } } }",
        variables: r#"{ "input": { "name": "gate", "environment": "production" } }"#,
        ids: &[],
    },
    Request {
        root: "clientKeyRevoke",
        allowed: Allowed::Roles(Action::ApiKeyWrite),
        document: "mutation($input: ClientKeyRevokeInput!) { clientKeyRevoke(input: $input) { clientKey { name } userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$ClientKey" } }"#,
        ids: &[("/input/id", "ClientKeyRevokeInput.id")],
    },
    Request {
        root: "featureFlagCreate",
        allowed: Allowed::Platform,
        document: "mutation($input: FeatureFlagCreateInput!) { featureFlagCreate(input: $input) { userErrors { code field } } }",
        variables: r#"{ "input": { "key": "gate", "name": "Gate", "kind": "RELEASE" } }"#,
        ids: &[],
    },
    Request {
        root: "featureFlagUpdate",
        allowed: Allowed::Platform,
        document: "mutation($input: FeatureFlagUpdateInput!) { featureFlagUpdate(input: $input) { userErrors { code field } } }",
        variables: r#"{ "input": { "key": "new-inbox", "name": "Gate" } }"#,
        ids: &[],
    },
    Request {
        root: "featureFlagDelete",
        allowed: Allowed::Platform,
        document: "mutation($input: FeatureFlagDeleteInput!) { featureFlagDelete(input: $input) { userErrors { code field } } }",
        variables: r#"{ "input": { "key": "new-inbox" } }"#,
        ids: &[],
    },
    Request {
        root: "featureFlagKill",
        allowed: Allowed::Platform,
        document: "mutation($input: FeatureFlagKillInput!) { featureFlagKill(input: $input) { userErrors { code field } } }",
        variables: r#"{ "input": { "key": "automatic-refunds", "reason": "gate" } }"#,
        ids: &[],
    },
    Request {
        root: "featureFlagRevive",
        allowed: Allowed::Platform,
        document: "mutation($input: FeatureFlagReviveInput!) { featureFlagRevive(input: $input) { userErrors { code field } } }",
        variables: r#"{ "input": { "key": "automatic-refunds", "reason": "gate" } }"#,
        ids: &[],
    },
    Request {
        root: "featureFlagGrantSet",
        allowed: Allowed::Platform,
        document: "mutation($input: FeatureFlagGrantSetInput!) { featureFlagGrantSet(input: $input) { userErrors { code field } } }",
        variables: r#"{ "input": { "organizationId": "$Organization", "key": "new-inbox", "reason": "gate" } }"#,
        ids: &[("/input/organizationId", "FeatureFlagGrantSetInput.organizationId")],
    },
    Request {
        root: "featureFlagGrantRemove",
        allowed: Allowed::Platform,
        document: "mutation($input: FeatureFlagGrantRemoveInput!) { featureFlagGrantRemove(input: $input) { userErrors { code field } } }",
        variables: r#"{ "input": { "organizationId": "$Organization", "key": "single-sign-on" } }"#,
        ids: &[("/input/organizationId", "FeatureFlagGrantRemoveInput.organizationId")],
    },
    Request {
        root: "featureFlagOverrideSet",
        allowed: Allowed::Roles(Action::FeatureFlagWrite),
        document: "mutation($input: FeatureFlagOverrideSetInput!) { featureFlagOverrideSet(input: $input) { featureFlagOverride { enabled } userErrors { code field } } }",
        variables: r#"{ "input": { "key": "new-inbox", "enabled": true } }"#,
        ids: &[],
    },
    Request {
        root: "featureFlagOverrideRemove",
        allowed: Allowed::Roles(Action::FeatureFlagWrite),
        document: "mutation($input: FeatureFlagOverrideRemoveInput!) { featureFlagOverrideRemove(input: $input) { userErrors { code field } } }",
        variables: r#"{ "input": { "key": "new-inbox" } }"#,
        ids: &[],
    },
    Request {
        root: "customRoleCreate",
        allowed: Allowed::Roles(Action::RoleWrite),
        document: "mutation($input: CustomRoleCreateInput!) { customRoleCreate(input: $input) { customRole { name } userErrors { code field } } }",
        variables: r#"{ "input": { "name": "gate", "actions": ["ORGANIZATION_READ"] } }"#,
        ids: &[],
    },
    Request {
        root: "customRoleUpdate",
        allowed: Allowed::Roles(Action::RoleWrite),
        document: "mutation($input: CustomRoleUpdateInput!) { customRoleUpdate(input: $input) { customRole { name } userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$CustomRole", "description": "gate" } }"#,
        ids: &[("/input/id", "CustomRoleUpdateInput.id")],
    },
    Request {
        root: "webhookDelivery",
        allowed: Allowed::Roles(Action::WebhookRead),
        document: "subscription { webhookDelivery { webhookEvent { id } } }",
        variables: "{}",
        ids: &[],
    },
    Request {
        root: "featureFlagsChanged",
        allowed: Allowed::Roles(Action::OrganizationRead),
        document: "subscription { featureFlagsChanged { etag } }",
        variables: "{}",
        ids: &[],
    },
    // The last ones: after them rows are gone, and the viewer is another, or nobody.
    Request {
        root: "customRoleDelete",
        allowed: Allowed::Roles(Action::RoleWrite),
        document: "mutation($input: CustomRoleDeleteInput!) { customRoleDelete(input: $input) { customRoleId userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$CustomRole" } }"#,
        ids: &[("/input/id", "CustomRoleDeleteInput.id")],
    },
    Request {
        root: "organizationMemberRemove",
        allowed: Allowed::Roles(Action::MemberUpdate),
        document: "mutation($input: OrganizationMemberRemoveInput!) { organizationMemberRemove(input: $input) { member { role } userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$OrganizationMember" } }"#,
        ids: &[("/input/id", "OrganizationMemberRemoveInput.id")],
    },
    Request {
        root: "organizationOwnershipTransfer",
        allowed: Allowed::Roles(Action::OwnershipTransfer),
        document: "mutation($input: OrganizationOwnershipTransferInput!) { organizationOwnershipTransfer(input: $input) { member { role } userErrors { code field } } }",
        variables: r#"{ "input": { "memberId": "$OrganizationMember" } }"#,
        ids: &[("/input/memberId", "OrganizationOwnershipTransferInput.memberId")],
    },
    Request {
        root: "organizationDelete",
        allowed: Allowed::Roles(Action::OrganizationDelete),
        document: "mutation($input: OrganizationDeleteInput!) { organizationDelete(input: $input) { organizationId userErrors { code field } } }",
        variables: r#"{ "input": { "slug": "another" } }"#,
        ids: &[],
    },
    Request {
        root: "organizationRestore",
        allowed: Allowed::Anybody,
        document: "mutation($input: OrganizationRestoreInput!) { organizationRestore(input: $input) { membership { role } userErrors { code field } } }",
        variables: r#"{ "input": { "organizationId": "$Organization" } }"#,
        ids: &[("/input/organizationId", "OrganizationRestoreInput.organizationId")],
    },
    Request {
        root: "organizationSuspend",
        allowed: Allowed::Platform,
        document: "mutation($input: OrganizationSuspendInput!) { organizationSuspend(input: $input) { suspendedAt userErrors { code field } } }",
        variables: r#"{ "input": { "organizationId": "$Organization", "reason": "gate" } }"#,
        ids: &[("/input/organizationId", "OrganizationSuspendInput.organizationId")],
    },
    Request {
        root: "entitlementGrantSet",
        allowed: Allowed::Platform,
        document: "mutation($input: EntitlementGrantSetInput!) { entitlementGrantSet(input: $input) { grant { amount } userErrors { code field } } }",
        variables: r#"{ "input": { "organizationId": "$Organization", "limit": "SEATS", "amount": 1, "reason": "gate" } }"#,
        ids: &[("/input/organizationId", "EntitlementGrantSetInput.organizationId")],
    },
    Request {
        root: "organizationReactivate",
        allowed: Allowed::Platform,
        document: "mutation($input: OrganizationReactivateInput!) { organizationReactivate(input: $input) { suspendedAt userErrors { code field } } }",
        variables: r#"{ "input": { "organizationId": "$Organization" } }"#,
        ids: &[("/input/organizationId", "OrganizationReactivateInput.organizationId")],
    },
    Request {
        root: "organizationDomainCreate",
        allowed: Allowed::Roles(Action::InvitationWrite),
        document: "mutation($input: OrganizationDomainCreateInput!) { organizationDomainCreate(input: $input) { domain { domain } userErrors { code field } } }",
        variables: r#"{ "input": { "domain": "gate.example" } }"#,
        ids: &[],
    },
    Request {
        root: "organizationDomainDelete",
        allowed: Allowed::Roles(Action::InvitationWrite),
        document: "mutation($input: OrganizationDomainDeleteInput!) { organizationDomainDelete(input: $input) { domainId userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$OrganizationDomain" } }"#,
        ids: &[("/input/id", "OrganizationDomainDeleteInput.id")],
    },
    Request {
        root: "organizationJoin",
        allowed: Allowed::Anybody,
        document: "mutation($input: OrganizationJoinInput!) { organizationJoin(input: $input) { isRequested userErrors { code field } } }",
        variables: r#"{ "input": { "organizationId": "$Organization" } }"#,
        ids: &[("/input/organizationId", "OrganizationJoinInput.organizationId")],
    },
    Request {
        root: "membershipRequestAccept",
        allowed: Allowed::Roles(Action::InvitationWrite),
        document: "mutation($input: MembershipRequestAcceptInput!) { membershipRequestAccept(input: $input) { request { isAccepted } userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$MembershipRequest" } }"#,
        ids: &[("/input/id", "MembershipRequestAcceptInput.id")],
    },
    Request {
        root: "membershipRequestDecline",
        allowed: Allowed::Roles(Action::InvitationWrite),
        document: "mutation($input: MembershipRequestDeclineInput!) { membershipRequestDecline(input: $input) { request { isAccepted } userErrors { code field } } }",
        variables: r#"{ "input": { "id": "$MembershipRequest" } }"#,
        ids: &[("/input/id", "MembershipRequestDeclineInput.id")],
    },
    Request {
        root: "supportAccessStart",
        allowed: Allowed::Platform,
        document: "mutation($input: SupportAccessStartInput!) { supportAccessStart(input: $input) { supportAccessId userErrors { code field } } }",
        variables: r#"{ "input": { "organizationId": "$Organization", "reason": "gate" } }"#,
        ids: &[("/input/organizationId", "SupportAccessStartInput.organizationId")],
    },
    Request {
        root: "supportAccessEnd",
        allowed: Allowed::Platform,
        document: "mutation($input: SupportAccessEndInput!) { supportAccessEnd(input: $input) { supportAccessId userErrors { code field } } }",
        variables: r#"{ "input": { "organizationId": "$Organization" } }"#,
        ids: &[("/input/organizationId", "SupportAccessEndInput.organizationId")],
    },
    Request {
        root: "organizationLeave",
        allowed: Allowed::Roles(Action::OrganizationLeave),
        document: "mutation($input: OrganizationLeaveInput!) { organizationLeave(input: $input) { memberId userErrors { code field } } }",
        variables: r#"{ "input": {} }"#,
        ids: &[],
    },
];

impl Request {
    fn is_subscription(&self) -> bool {
        self.document.starts_with("subscription")
    }

    /// The variables with ids of this organization.
    async fn variables(&self, app: &TestApp, slug: &str) -> Value {
        let mut text = self.variables.to_owned();
        for info in ENTITIES {
            let place = format!("\"${}\"", info.name);
            if text.contains(&place) {
                let id = global_id(info.name, ids(app, info, slug, "true").await.first().copied().unwrap_or_default());
                text = text.replace(&place, &format!("\"{id}\""));
            }
        }
        serde_json::from_str(&text).expect("JSON")
    }
}

/// What the server says at once: to a subscription the first event, or nothing within the time given.
async fn ask(app: &TestApp, token: Option<&str>, header: Option<&str>, request: &Request, variables: &Value) -> Value {
    let body = json!({ "query": request.document, "variables": variables });
    let mut http = app.client().post(format!("{}/graphql", app.base_url())).json(&body);
    if let Some(token) = token {
        http = http.bearer_auth(token);
    }
    if let Some(organization) = header {
        http = http.header("X-Organization-Id", organization);
    }
    if !request.is_subscription() {
        return http.send().await.expect("an answer").json().await.expect("JSON");
    }
    // An error comes at once. Silence is what a subscriber who may listen hears.
    let silence = std::time::Duration::from_millis(1500);
    let over_socket = ask_socket(app, token, header, &body, silence);
    let over_events = async {
        let mut response = http.header("Accept", "text/event-stream").send().await.expect("an answer");
        if response.status() != 200 {
            return response.json().await.expect("JSON");
        }
        let Ok(Ok(Some(chunk))) = tokio::time::timeout(silence, response.chunk()).await else { return json!({}) };
        let text = String::from_utf8_lossy(&chunk).into_owned();
        let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap_or("{}");
        serde_json::from_str(data).unwrap_or_default()
    };
    let (answer, over_socket) = tokio::join!(over_events, over_socket);
    if over_socket["closed"] == 4401 {
        // Without credentials a socket is not opened at all.
        assert_eq!(codes(&answer), ["UNAUTHENTICATED"], "{}: {over_socket}", request.root);
    } else if over_socket["closed"] == 4403 {
        // Credentials that are refused whole: the socket ends before the operation.
        assert_eq!(codes(&answer), ["ORGANIZATION_MISMATCH"], "{}: {over_socket}", request.root);
    } else {
        assert_eq!(codes(&over_socket), codes(&answer), "{}: a socket and a stream say the same", request.root);
    }
    answer
}

/// The same over `graphql-transport-ws`.
async fn ask_socket(
    app: &TestApp,
    token: Option<&str>,
    header: Option<&str>,
    body: &Value,
    silence: std::time::Duration,
) -> Value {
    let mut upgrade = app.ws_url().into_client_request().expect("a request");
    upgrade.headers_mut().insert("sec-websocket-protocol", "graphql-transport-ws".parse().expect("a header"));
    let (mut socket, _) = tokio_tungstenite::connect_async(upgrade).await.expect("a socket");
    let mut credentials = serde_json::Map::new();
    credentials.extend(token.map(|token| ("authorization".to_owned(), json!(format!("Bearer {token}")))));
    credentials.extend(header.map(|header| ("x-organization-id".to_owned(), json!(header))));
    let message = json!({ "type": "connection_init", "payload": credentials });
    socket.send(Message::text(message.to_string())).await.expect("the server listens");
    loop {
        let Ok(said) = tokio::time::timeout(silence, socket.next()).await else { return json!({}) };
        let text = match said.expect("a message before the end").expect("a message") {
            Message::Text(text) => text,
            Message::Close(frame) => return json!({ "closed": frame.map(|frame| u16::from(frame.code)) }),
            _ => continue,
        };
        let said: Value = serde_json::from_str(&text).expect("JSON");
        match said["type"].as_str() {
            Some("connection_ack") => {
                let message = json!({ "type": "subscribe", "id": "1", "payload": body });
                socket.send(Message::text(message.to_string())).await.expect("the server listens");
            }
            Some("next") => return said["payload"].clone(),
            Some("error") => return json!({ "errors": said["payload"] }),
            Some("complete") => return json!({}),
            _ => {}
        }
    }
}

#[test]
fn denial_knows_every_root_field_and_every_place_for_an_id() {
    let sdl = Sdl::read();
    let asked: BTreeSet<&str> = REQUESTS.iter().map(|request| request.root).collect();
    let mut places = BTreeSet::new();
    for root in ["Query", "Mutation", "SubscriptionRoot"] {
        for field in sdl.root(root) {
            assert!(
                asked.contains(field.name.as_str()),
                "{root}.{} has no request: add one to REQUESTS in tests/it/gates/denial.rs",
                field.name
            );
        }
    }
    for (name, fields) in &sdl.objects {
        for field in fields {
            for argument in field.arguments.iter().filter(|argument| argument.base == "ID") {
                places.insert(format!("{name}.{}({})", field.name, argument.name));
            }
        }
    }
    // `IdFilter` is asked in every list, in `listings.rs`.
    for (name, fields) in sdl.inputs.iter().filter(|(name, _)| *name != "IdFilter") {
        places.extend(fields.iter().filter(|field| field.base == "ID").map(|field| format!("{name}.{}", field.name)));
    }
    let tried: BTreeSet<String> =
        REQUESTS.iter().flat_map(|request| request.ids).map(|(_, place)| (*place).to_owned()).collect();
    let missing: Vec<&String> = places.difference(&tried).collect();
    assert!(missing.is_empty(), "{missing:?} take ids and are not in `ids` of a request in tests/it/gates/denial.rs");
    assert_eq!(tried, places, "places that are gone");
    let registered: BTreeSet<&str> = mutations().iter().map(|mutation| mutation.field).collect();
    let fields: BTreeSet<&str> = sdl.root("Mutation").iter().map(|field| field.name.as_str()).collect();
    assert_eq!(registered, fields, "MUTATIONS of the slices and the fields of Mutation");
    for mutation in mutations() {
        let request = REQUESTS.iter().find(|request| request.root == mutation.field).expect("a request");
        let as_registered = match (request.allowed, mutation.action) {
            (Allowed::Roles(action), Some(wanted)) => action == wanted,
            (Allowed::Anybody | Allowed::Platform, None) => true,
            _ => false,
        };
        assert!(as_registered, "{}", mutation.field);
    }
}

#[tokio::test]
async fn denial_follows_the_role_in_every_root_field() {
    let app = TestApp::start().await;
    let bob = app.token("bob@example.com", Some(FOREIGN)).await;
    let stranger = app.token("admin@example.com", None).await;
    sqlx::query("update tenantry.users set is_superadmin = false where email = 'admin@example.com'")
        .execute(&mut app.database.system().await)
        .await
        .expect("a user of no organization");
    for role in MemberRole::ALL {
        let token = member(&app, *role).await;
        for request in REQUESTS {
            let variables = request.variables(&app, OWN).await;
            let answer = ask(&app, Some(&token), None, request, &variables).await;
            let allowed = match request.allowed {
                Allowed::Anybody => true,
                Allowed::Roles(action) => action.allows(*role),
                Allowed::Platform => false,
            };
            let denied = codes(&answer).iter().any(|code| code == "FORBIDDEN");
            assert_eq!(denied, !allowed, "{} as {role:?}: {answer}", request.root);
            // A request that fails for another reason proves nothing about roles.
            assert!(denied || answer.get("errors").is_none(), "{} as {role:?}: {answer}", request.root);
        }
    }
    for request in REQUESTS {
        let variables = request.variables(&app, OWN).await;
        let answer = ask(&app, None, None, request, &variables).await;
        assert_eq!(codes(&answer).first().map(String::as_str), Some("UNAUTHENTICATED"), "{}: {answer}", request.root);
        // Who is a member of nothing, and who is an owner elsewhere and asks for this organization.
        let expected: &[&str] = match request.allowed {
            Allowed::Anybody => continue,
            Allowed::Platform => &["FORBIDDEN", "ORGANIZATION_MISMATCH"],
            Allowed::Roles(_) => &["ORGANIZATION_NOT_FOUND", "ORGANIZATION_MISMATCH"],
        };
        for token in [&stranger, &bob] {
            let answer = ask(&app, Some(token), Some(OWN), request, &variables).await;
            let got = codes(&answer);
            assert!(got.iter().any(|code| expected.contains(&code.as_str())), "{}: {answer}", request.root);
        }
    }
}

#[tokio::test]
async fn denial_makes_a_foreign_id_like_one_that_does_not_exist() {
    let app = TestApp::start().await;
    let owner = member(&app, MemberRole::Owner).await;
    let nothing = Uuid::from_u128(0x0199_c0ff_ee00_7000_8000_0000_0000_0001);
    for request in REQUESTS {
        let own = request.variables(&app, OWN).await;
        let foreign = request.variables(&app, FOREIGN).await;
        for (pointer, place) in request.ids {
            let with = |id: &Value| {
                let mut variables = own.clone();
                *variables.pointer_mut(pointer).expect("the place") = id.clone();
                variables
            };
            let id = foreign.pointer(pointer).expect("the place").clone();
            let (prefix, _) = id.as_str().and_then(|id| id.split_once('_')).expect("an id");
            let missing = json!(format!("{prefix}_{}", nothing.simple()));
            let stolen = ask(&app, Some(&owner), None, request, &with(&id)).await;
            let absent = ask(&app, Some(&owner), None, request, &with(&missing)).await;
            if matches!(request.allowed, Allowed::Platform) {
                // An owner is no operator: refused before the id is looked at.
                assert_eq!(
                    (codes(&stolen), codes(&absent)),
                    (vec!["FORBIDDEN".into()], vec!["FORBIDDEN".into()]),
                    "{place}"
                );
                continue;
            }
            assert_eq!(stolen, absent, "{place}: a foreign id tells more than one that does not exist");
            // A subscriber of a foreign row hears nothing.
            let nothing_there = stolen == json!({})
                || stolen["data"][request.root].is_null()
                || stolen["data"][request.root] == json!([null])
                // Of many, each has errors of its own.
                || stolen["data"][request.root]["results"][0]["userErrors"][0]["code"] == "NOT_FOUND"
                || codes(&stolen).iter().any(|code| code == "NOT_FOUND");
            assert!(nothing_there, "{place}: {stolen}");
        }
    }
}

#[tokio::test]
async fn denial_follows_the_role_in_every_entity_and_list() {
    let app = TestApp::start().await;
    let sdl = Sdl::read();
    let mut asked = 0;
    for role in MemberRole::ALL {
        let token = member(&app, *role).await;
        for info in ENTITIES.iter().filter(|info| !info.is_platform) {
            let id = global_id(info.name, ids(&app, info, OWN, "true").await[0]);
            let answer = app.run(&token, "query($id: ID!) { node(id: $id) { id } }", json!({ "id": id })).await;
            let denied = codes(&answer).iter().any(|code| code == "FORBIDDEN");
            assert_eq!(denied, !info.read.allows(*role), "{} as {role:?}: {answer}", info.name);
            asked += 1;
            for (hidden, unless) in info.hidden {
                let rows = ids(&app, info, OWN, hidden).await;
                assert!(!rows.is_empty(), "{}: the sample data has something to hide", info.name);
                for uuid in rows {
                    let id = json!({ "id": global_id(info.name, uuid) });
                    let answer = app.run(&token, "query($id: ID!) { node(id: $id) { id } }", id).await;
                    let may = unless.allows(*role) && info.read.allows(*role);
                    assert_eq!(answer["data"]["node"].is_object(), may, "{} as {role:?}", info.name);
                }
            }
        }
        for list in sdl.lists().iter().filter(|list| list.path[0] == "organization") {
            let answer = app.run(&token, &list.document("{ totalCount nodes { id } }"), json!({})).await;
            let allowed = list.entities.iter().all(|name| entity(name).read.allows(*role));
            let denied = codes(&answer).iter().any(|code| code == "FORBIDDEN");
            assert_eq!(denied, !allowed, "{} as {role:?}: {answer}", list.name());
            asked += 1;
        }
    }
    println!("{asked} combinations of field and role were asked");
}
