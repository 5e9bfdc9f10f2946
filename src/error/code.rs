//! The public error codes, all of them.

use std::fmt::{self, Display, Formatter};

/// Declares [`Code`]: the variant, the code, what it means, and what to do. `docs/ERRORS.md` has the same order.
macro_rules! codes {
    ($($variant:ident $code:literal $meaning:literal $remedy:literal;)+) => {
        /// A stable code of a public error, for programs.
        ///
        /// It stands in `errors[].extensions.code` of GraphQL and HTTP answers, in `userErrors[].code` of payloads, and
        /// at the beginning of the messages of commands. Codes are never renamed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code {
            $(#[doc = $meaning] $variant,)+
        }

        impl Code {
            /// Every code, in the order of `docs/ERRORS.md`.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The code as it is sent.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $code,)+
                }
            }

            /// What the code means.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variant => $meaning,)+
                }
            }

            /// What to do about it.
            #[must_use]
            pub const fn remedy(self) -> &'static str {
                match self {
                    $(Self::$variant => $remedy,)+
                }
            }
        }
    };
}

codes! {
    // Who the viewer is and what the viewer may do.
    Unauthenticated "UNAUTHENTICATED"
        "The request has no credential."
        "Send `Authorization: Bearer <token>`.";
    InvalidToken "INVALID_TOKEN"
        "The token is not valid; the message says why."
        "Get a new token.";
    AccountNotReady "ACCOUNT_NOT_READY"
        "The token is good, and the identity provider has not told of its user yet."
        "Try again in a few seconds.";
    AccountGone "ACCOUNT_GONE"
        "The user of the token was deleted."
        "Sign in with another account.";
    AccountBlocked "ACCOUNT_BLOCKED"
        "The user of the token is banned or locked at the identity provider."
        "Ask whoever runs the service.";
    SessionEnded "SESSION_ENDED"
        "The identity provider has ended the session of the token."
        "Sign in again.";
    KeysUnavailable "KEYS_UNAVAILABLE"
        "The signing keys of the identity provider cannot be fetched."
        "Try again in a few seconds.";
    InvalidApiKey "INVALID_API_KEY"
        "The API key is unknown, mistyped, revoked, expired, or used from elsewhere; the message says which."
        "Look at `organization.apiKeys`, and send a key that is in force.";
    UserRequired "USER_REQUIRED"
        "The request was made with an API key, and asks for what is a person's."
        "Send a user's token.";
    OrganizationRequired "ORGANIZATION_REQUIRED"
        "Neither the token nor the request names an organization."
        "Send `X-Organization-Id`.";
    OrganizationNotFound "ORGANIZATION_NOT_FOUND"
        "The organization does not exist, or the viewer is not a member."
        "Choose one of `viewer.memberships`.";
    OrganizationSuspended "ORGANIZATION_SUSPENDED"
        "An operator has suspended the organization: it can be read and not changed."
        "Ask whoever runs the service.";
    SeatRequired "SEAT_REQUIRED"
        "All seats of the organization are taken and the viewer has none: they can read and not change."
        "Have an owner or administrator free a seat or buy more; it is given by itself.";
    OrganizationMismatch "ORGANIZATION_MISMATCH"
        "The token is for another organization than `X-Organization-Id` names."
        "Get a token for that organization.";
    Forbidden "FORBIDDEN"
        "The viewer's role does not allow the action."
        "Ask an administrator; `viewer.permissions` lists what is allowed.";
    ImpersonationRestricted "IMPERSONATION_RESTRICTED"
        "The action is the user's alone, and somebody acts in their place."
        "The user signs in and does it, or the operator sets `AUTH_IMPERSONATION=full`.";
    // What the document says.
    GraphqlParseFailed "GRAPHQL_PARSE_FAILED"
        "The document is not GraphQL."
        "Correct the syntax at the place that the message names.";
    GraphqlValidationFailed "GRAPHQL_VALIDATION_FAILED"
        "The document does not fit the schema."
        "Compare it with the schema.";
    OperationNameRequired "OPERATION_NAME_REQUIRED"
        "The document has several operations."
        "Send `operationName`.";
    OperationNotFound "OPERATION_NOT_FOUND"
        "The document has no operation of that name."
        "Correct `operationName`.";
    InvalidVariable "INVALID_VARIABLE"
        "A variable is missing, or it or a part of it is not of its type."
        "Correct what `extensions.field` names; the message says what would be right.";
    InvalidArgument "INVALID_ARGUMENT"
        "An argument in the document, or a part of it, has a value that is not of its type or not allowed."
        "Correct what `extensions.field` names; the message says what would be right.";
    InvalidCursor "INVALID_CURSOR"
        "The cursor was not made by this list in this order."
        "Start again without a cursor, or repeat the `orderBy` it was made with.";
    IntrospectionDisabled "INTROSPECTION_DISABLED"
        "Introspection is switched off."
        "Use the committed `schema.graphql`, or set `INTROSPECTION=on`.";
    // Limits.
    QueryTooLong "QUERY_TOO_LONG"
        "The document has too many bytes."
        "Split it.";
    QueryTooManyTokens "QUERY_TOO_MANY_TOKENS"
        "The document has too many tokens."
        "Split it.";
    QueryTooDeep "QUERY_TOO_DEEP"
        "Selections, values or fragments are nested too deeply."
        "Select fewer levels.";
    QueryTooComplex "QUERY_TOO_COMPLEX"
        "The operation could return too much."
        "Ask for fewer rows with `first`, or for fewer fields.";
    QueryTooManyFields "QUERY_TOO_MANY_FIELDS"
        "The operation selects too many fields, fragments expanded."
        "Select fewer fields.";
    QueryTooManyRootFields "QUERY_TOO_MANY_ROOT_FIELDS"
        "The operation selects too many root fields."
        "Split it.";
    QueryTooManyAliases "QUERY_TOO_MANY_ALIASES"
        "The operation has too many aliases."
        "Split it.";
    QueryTooManyDirectives "QUERY_TOO_MANY_DIRECTIVES"
        "The operation has too many directives."
        "Split it.";
    QueryTooExpensive "QUERY_TOO_EXPENSIVE"
        "The operation costs more than a credential ever has of the organization's budget."
        "Ask for smaller pages or fewer fields, or split it; waiting does not help.";
    RateLimited "RATE_LIMITED"
        "The credential or the organization has spent its budget for the moment, or has too many requests waiting."
        "Try again after `extensions.retryAfter` seconds, which is also the header `Retry-After`.";
    TooManySubscriptions "TOO_MANY_SUBSCRIPTIONS"
        "The socket, the credential, the organization or the server has too many subscriptions, or the organization too many streams of its log."
        "End some, or open another socket.";
    EventsMissed "EVENTS_MISSED"
        "A subscription was behind, or its client away, for longer than events are kept."
        "Read again what the subscription is about, and subscribe anew without the id of an event.";
    BodyTooLarge "BODY_TOO_LARGE"
        "The body of the request has too many bytes."
        "Send less at once.";
    // The HTTP or WebSocket request.
    BadRequest "BAD_REQUEST"
        "The request is not a GraphQL request in JSON, or not a webhook."
        "Correct what the message names.";
    BatchingNotSupported "BATCHING_NOT_SUPPORTED"
        "The body is a list of operations."
        "Send one operation in each request.";
    PersistedQueryNotFound "PERSISTED_QUERY_NOT_FOUND"
        "No document was registered under this hash, or it is not remembered any more."
        "Send the document in `query` beside its hash once; clients that speak Apollo's protocol do it by themselves.";
    PersistedQueryMismatch "PERSISTED_QUERY_MISMATCH"
        "The hash is not that of the document beside it."
        "Send the SHA-256 of `query`, in small hexadecimal digits.";
    PersistedQueryNotInList "PERSISTED_QUERY_NOT_IN_LIST"
        "No trusted document of the client has this id."
        "Publish the manifest of the client's version (`TRUSTED_DOCUMENTS`), and check the name that the client sends.";
    PersistedQueryIdRequired "PERSISTED_QUERY_ID_REQUIRED"
        "Only trusted documents are executed, and the request has a document of its own."
        "Send the id of a document that is in the client's manifest, in `documentId`.";
    PersistedQueryNotSupported "PERSISTED_QUERY_NOT_SUPPORTED"
        "The request names a document by its hash, and hashes are not taken here."
        "Send the document in `query`.";
    MethodNotAllowed "METHOD_NOT_ALLOWED"
        "The method is not allowed here."
        "Use a method that the header `Allow` lists.";
    NotAcceptable "NOT_ACCEPTABLE"
        "No media type of `Accept` can be answered."
        "Accept `application/graphql-response+json`.";
    UnsupportedMediaType "UNSUPPORTED_MEDIA_TYPE"
        "The body is not declared as JSON in UTF-8 without encoding."
        "Send `Content-Type: application/json`.";
    SubscriptionNeedsAStream "SUBSCRIPTION_NEEDS_A_STREAM"
        "A subscription was sent without a way to answer more than once."
        "Accept `text/event-stream`, or use the WebSocket.";
    OriginNotAllowed "ORIGIN_NOT_ALLOWED"
        "A page of another origin opens a WebSocket."
        "Add the origin to `CORS_ORIGINS`.";
    WebsocketExpected "WEBSOCKET_EXPECTED"
        "The request does not open a WebSocket."
        "Use a WebSocket client.";
    SubprotocolNotSupported "SUBPROTOCOL_NOT_SUPPORTED"
        "The WebSocket offers no subprotocol of ours."
        "Offer `graphql-transport-ws`.";
    BodyTimeout "BODY_TIMEOUT"
        "The head or the body of the request took too long to arrive."
        "Send it again over a better connection.";
    // The server.
    NotFound "NOT_FOUND"
        "Nothing is at this address; in `userErrors`: an id names nothing in this organization."
        "Correct the address or the id.";
    Unavailable "UNAVAILABLE"
        "The database cannot be reached or is too busy."
        "Try again in a few seconds.";
    Overloaded "OVERLOADED"
        "The server works on as many requests as it can; nothing of this one was done."
        "Try again after the seconds that `Retry-After` names.";
    TooManyConnections "TOO_MANY_CONNECTIONS"
        "The server, or the client's address, has as many connections as it may have."
        "Use connections again, or try later (docs/CONNECTIONS.md).";
    Timeout "TIMEOUT"
        "The request took too long and was stopped."
        "Ask for less at once.";
    Internal "INTERNAL"
        "The server has a bug or a broken part."
        "Report the `requestId`; the log has the cause under it.";
    // `userErrors` in the payloads of mutations, besides `NOT_FOUND`.
    Blank "BLANK"
        "A text is empty, or has only spaces."
        "Fill it in.";
    TooLong "TOO_LONG"
        "A text or a list is longer than allowed."
        "Shorten it.";
    Invalid "INVALID"
        "A value does not have the right form."
        "Correct it as the message says.";
    InvalidTransition "INVALID_TRANSITION"
        "The state of the row does not allow the change."
        "Read the row again and decide anew.";
    VersionConflict "VERSION_CONFLICT"
        "The row has changed since `expectedVersion`."
        "Read the row again and decide anew.";
    IdempotencyKeyParameterMismatch "IDEMPOTENCY_KEY_PARAMETER_MISMATCH"
        "The idempotency key was used before with other arguments."
        "Use a new key for another request.";
    IdempotencyConcurrentRequest "IDEMPOTENCY_CONCURRENT_REQUEST"
        "A request with this idempotency key is under way."
        "Wait, then repeat the request with the same key.";
    Conflict "CONFLICT"
        "There is one like it already."
        "Use the one that is there, or end it first.";
    Expired "EXPIRED"
        "It has expired."
        "Ask for a new one.";
    OwnerRequired "OWNER_REQUIRED"
        "Only an owner of the organization may."
        "Ask an owner.";
    SeatsExhausted "SEATS_EXHAUSTED"
        "All seats of the organization are taken."
        "Buy more, make a member VIEWER, or remove one; VIEWERs need no seat.";
    PlanLimitReached "PLAN_LIMIT_REACHED"
        "The plan gives no more of it; the message says which plan would."
        "Take a greater plan, or use less.";
    BeyondOwnRole "BEYOND_OWN_ROLE"
        "The change would give, take or touch what the viewer may not do themselves."
        "Ask somebody whose role has all of it.";
    LastOwner "LAST_OWNER"
        "The organization would be left without an owner."
        "Make another member OWNER first.";
    ManagedElsewhere "MANAGED_ELSEWHERE"
        "Somebody else decides about it: the identity provider, Stripe or the operator of the platform."
        "Change it there; it changes here by itself.";
    BeyondPlan "BEYOND_PLAN"
        "The plan of the organization does not include it."
        "Change to a plan that does, or ask the operator of the platform.";
    AuthorRequired "AUTHOR_REQUIRED"
        "Only the author may change or delete it."
        "Write another message, or ask the author.";
    NobodyAvailable "NOBODY_AVAILABLE"
        "No representative is online with room for another ticket."
        "Name one in `representativeId`, or leave the ticket in the queue.";
    BudgetExceeded "BUDGET_EXCEEDED"
        "The budget does not have that much left."
        "Spend what the message says is left, raise the limit, or wait for the next period.";
    CurrencyMismatch "CURRENCY_MISMATCH"
        "The amount is in another currency than the budget or reservation."
        "Name an amount in its currency: nothing is converted.";
    AnotherPersonRequired "ANOTHER_PERSON_REQUIRED"
        "Two people decide about this amount, and the viewer is the first."
        "Ask somebody else who may approve.";
    ExceedsCharge "EXCEEDS_CHARGE"
        "More would be given back than was paid."
        "Give back less, or cancel another refund of the payment.";
    BillingNotConfigured "BILLING_NOT_CONFIGURED"
        "The operator has not set up billing."
        "Ask the operator to set `STRIPE_SECRET_KEY`.";
    SubscriptionExists "SUBSCRIPTION_EXISTS"
        "The organization pays for a subscription already, or is about to."
        "Change it with `billingPlanChange`, or in the portal.";
    NoSubscription "NO_SUBSCRIPTION"
        "The organization has no living subscription."
        "Subscribe with `billingCheckoutCreate`.";
    UnknownPrice "UNKNOWN_PRICE"
        "No plan has such a price."
        "Name a plan, an interval and a currency that go together.";
    WrongMode "WRONG_MODE"
        "Stripe does not have the customer, the subscription or the price in the mode that the service works in, test or live."
        "Ask the operator to compare `STRIPE_SECRET_KEY` with `PLANS_FILE`.";
    UrlNotAllowed "URL_NOT_ALLOWED"
        "The address is on no origin of the client application."
        "Name one on `APP_URL` or `CORS_ORIGINS`.";
    PreviewOutdated "PREVIEW_OUTDATED"
        "What was looked at is not so any more: the amount, the subscription or the time."
        "Look at a new `billingPlanPreview`, and decide anew.";
    PaymentRequired "PAYMENT_REQUIRED"
        "An invoice must be paid first, or the payment was declined."
        "Pay it, or use another payment method: `billingPortalCreate`.";
    StripeRefused "STRIPE_REFUSED"
        "Stripe has refused it; the message has its code."
        "Correct what the code names, or ask the operator.";
    StripeUnavailable "STRIPE_UNAVAILABLE"
        "Stripe has not answered."
        "Ask again with the same `idempotencyKey`.";
    // Answers to deliveries of webhooks.
    WebhooksNotConfigured "WEBHOOKS_NOT_CONFIGURED"
        "The signing secret of this endpoint is not set."
        "Set `CLERK_WEBHOOK_SECRETS` or `STRIPE_WEBHOOK_SECRETS`.";
    SignatureMissing "SIGNATURE_MISSING"
        "The delivery has no signature."
        "Only the provider delivers here.";
    SignatureMalformed "SIGNATURE_MALFORMED"
        "The header of the signature cannot be read."
        "Check proxies that change headers.";
    SignatureTooOld "SIGNATURE_TOO_OLD"
        "The signature was made more than five minutes ago."
        "Check the clock of the server; the provider repeats the delivery.";
    SignatureFromTheFuture "SIGNATURE_FROM_THE_FUTURE"
        "The signature was made more than five minutes ahead of our clock."
        "Check the clock of the server.";
    SignatureMismatch "SIGNATURE_MISMATCH"
        "No secret fits the signature."
        "Compare the secret with the one that the provider shows; check proxies that change the body.";
    // Commands.
    BackupFirst "BACKUP_FIRST"
        "The command cannot be undone and nobody said that there is a backup."
        "Back up, then add `--yes`.";
    NoPlan "NO_PLAN"
        "The file of the plan cannot be read."
        "Write a first plan with `tenantry adopt plan --output plan.toml`.";
    PlanInvalid "PLAN_INVALID"
        "The plan is not valid, or does not fit the database."
        "Correct each line that the message lists.";
    BadReport "BAD_REPORT"
        "The report cannot be written there."
        "Name a `.csv` or `.json` file in an existing folder.";
    NoUsersTable "NO_USERS_TABLE"
        "The table of users was not found."
        "Name it with `--users schema.table`.";
    NotMigrated "NOT_MIGRATED"
        "The database does not have Tenantry's tables."
        "Run `tenantry migrate up` first.";
    SchemaTaken "SCHEMA_TAKEN"
        "The database has a schema `tenantry` that is somebody else's."
        "Rename it, as the message says.";
    ReadOnly "READ_ONLY"
        "The database takes no writes here."
        "Let `MIGRATION_DATABASE_URL` log in to the primary, with a role that may write.";
    NotOwner "NOT_OWNER"
        "The role does not own Tenantry's tables."
        "Let `MIGRATION_DATABASE_URL` log in as the role that ran `tenantry migrate up`.";
    NoPrivilege "NO_PRIVILEGE"
        "The role of `MIGRATION_DATABASE_URL` may not do this."
        "Let it own the tables, or be a member of their owner; the message may name another grant.";
    SchemaOpen "SCHEMA_OPEN"
        "Other roles may create objects in a schema that our statements use."
        "Revoke it as the message says.";
    OrganizationTaken "ORGANIZATION_TAKEN"
        "A legacy organization has the id of an organization that the adoption did not make."
        "Give it another id, or set `join_existing = true`.";
    SlugTaken "SLUG_TAKEN"
        "The slug of the default workspace is taken."
        "Choose another `workspaces.slug`, or set `join_existing = true`.";
    NothingDone "NOTHING_DONE"
        "Nothing was done under the name of this plan."
        "Check the name of the adoption.";
    NotReady "NOT_READY"
        "Rows or users are not ready to be enforced, or a step that was tried would fail."
        "Repair what the message or `tenantry adopt verify` lists.";
    Busy "BUSY"
        "Another process works on this adoption."
        "Wait for it to end.";
    Unreachable "UNREACHABLE"
        "The database cannot be reached."
        "Check `MIGRATION_DATABASE_URL`.";
    ConnectionLost "CONNECTION_LOST"
        "The connection to the database was lost."
        "Run the same command again; it continues where it stopped.";
    DiskFull "DISK_FULL"
        "The disk of the database is full."
        "Make room, then run the same command again.";
    DatabaseBusy "DATABASE_BUSY"
        "The database is short of memory or connections."
        "Run the same command again later.";
    Locked "LOCKED"
        "A lock was not granted in time, repeatedly."
        "End the long transaction in `pg_stat_activity`, then run the same command again.";
    Collisions "COLLISIONS"
        "The command collided with other writers, repeatedly."
        "Run the same command again.";
    DatabaseError "DATABASE_ERROR"
        "The database refused a statement."
        "Read the message; it has the SQLSTATE.";
    File "FILE"
        "A file cannot be read or written."
        "Check the path and its permissions.";
}

impl Display for Code {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl PartialEq<&str> for Code {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_are_unique_and_upper_case() {
        let codes: BTreeSet<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(codes.len(), Code::ALL.len());
        assert!(codes.iter().all(|code| code.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')));
    }
}
