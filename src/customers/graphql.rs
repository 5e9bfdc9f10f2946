//! Customers in the schema: inputs, mutations and the subscription.

use std::sync::Arc;

use async_graphql::{Context, InputObject, MaybeUndefined, Object, SimpleObject, Subscription};
use futures_util::Stream;
use serde_json::Value;

use crate::customers::{AccountStanding, AccountTier, Customer};
use crate::error::Result;
use crate::graphql::follow::follow;
use crate::graphql::mutation::{self, Mutation, UserError};
use crate::graphql::session::Session;
use crate::id::{CustomerId, marker};

/// The fields of a new customer.
#[derive(Clone, Debug, InputObject)]
pub struct CustomerCreateInput {
    /// E-mail address: 3 to 320 characters. No other customer in use has it, in upper or lower case.
    pub email: String,
    /// Full name: 1 to 200 characters.
    pub name: String,
    /// Telephone number: at most 50 characters.
    pub phone: Option<String>,
    /// Employer: at most 200 characters.
    pub company: Option<String>,
    /// Tier; STANDARD by default.
    pub tier: Option<AccountTier>,
    /// Standing; GOOD by default.
    pub standing: Option<AccountStanding>,
    /// Preferences such as language and channel: a JSON object of at most 64 KiB.
    pub preferences: Option<Value>,
    /// Context for support: a JSON object of at most 64 KiB.
    pub context: Option<Value>,
    /// Idempotency key, 1 to 255 characters: a repeated request with the same key and input returns the customer of the first.
    pub idempotency_key: Option<String>,
}

/// The changes of a customer. Omitted fields stay as they are.
#[derive(Clone, Debug, InputObject)]
pub struct CustomerUpdateInput {
    /// The customer: one in use.
    pub id: CustomerId,
    /// E-mail address: 3 to 320 characters. No other customer in use has it, in upper or lower case.
    pub email: Option<String>,
    /// Full name: 1 to 200 characters.
    pub name: Option<String>,
    /// Telephone number: at most 50 characters; null removes it.
    pub phone: MaybeUndefined<String>,
    /// Employer: at most 200 characters; null removes it.
    pub company: MaybeUndefined<String>,
    /// Tier.
    pub tier: Option<AccountTier>,
    /// Standing.
    pub standing: Option<AccountStanding>,
    /// Preferences, replaced as a whole: a JSON object of at most 64 KiB.
    pub preferences: Option<Value>,
    /// Context for support, replaced as a whole: a JSON object of at most 64 KiB.
    pub context: Option<Value>,
    /// The version that the change is based on; another current version gives `VERSION_CONFLICT`.
    pub expected_version: Option<i32>,
    /// Idempotency key, 1 to 255 characters: a repeated request with the same key and input changes nothing.
    pub idempotency_key: Option<String>,
}

/// Which customer to archive.
#[derive(Clone, Debug, InputObject)]
pub struct CustomerArchiveInput {
    /// The customer: one without open tickets.
    pub id: CustomerId,
    /// The version that the change is based on; another current version gives `VERSION_CONFLICT`.
    pub expected_version: Option<i32>,
}

/// Two customers who are one.
#[derive(Clone, Debug, InputObject)]
pub struct CustomerMergeInput {
    /// The customer that ends: it is archived and refers to the other one.
    pub id: CustomerId,
    /// The customer that goes on: it gets tickets, messages, refunds, the amount paid, the account and the fields that it has not.
    pub into_id: CustomerId,
    /// The version of the customer that ends; another current version gives `VERSION_CONFLICT`.
    pub expected_version: Option<i32>,
    /// Idempotency key, 1 to 255 characters: a repeated request with the same key and input changes nothing.
    pub idempotency_key: Option<String>,
}

/// The result of `customerCreate`, `customerUpdate` and `customerArchive`.
#[derive(Debug, SimpleObject)]
pub struct CustomerPayload {
    /// The customer; null when there are errors.
    pub customer: Option<Arc<Customer>>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The result of `customerMerge`.
#[derive(Debug, SimpleObject)]
pub struct CustomerMergePayload {
    /// The customer that ended; null when there are errors.
    pub customer: Option<Arc<Customer>>,
    /// The customer that goes on; null when there are errors.
    pub into: Option<Arc<Customer>>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

async fn change<M: Mutation<Row = marker::Customer>>(ctx: &Context<'_>, input: M) -> Result<CustomerPayload> {
    let ran = mutation::run(ctx, input).await?;
    Ok(CustomerPayload { customer: Session::of(ctx)?.load_written(ran.id).await?, user_errors: ran.user_errors })
}

/// The mutations of the slice.
#[derive(Debug, Default)]
pub struct CustomerMutation;

#[Object]
impl CustomerMutation {
    /// Creates a customer.
    async fn customer_create(&self, ctx: &Context<'_>, input: CustomerCreateInput) -> Result<CustomerPayload> {
        change(ctx, input).await
    }

    /// Updates a customer.
    async fn customer_update(&self, ctx: &Context<'_>, input: CustomerUpdateInput) -> Result<CustomerPayload> {
        change(ctx, input).await
    }

    /// Archives a customer: lists leave it out, new tickets cannot name it, and its address is free again.
    async fn customer_archive(&self, ctx: &Context<'_>, input: CustomerArchiveInput) -> Result<CustomerPayload> {
        change(ctx, input).await
    }

    /// Merges a customer into another one. It cannot be undone.
    async fn customer_merge(&self, ctx: &Context<'_>, input: CustomerMergeInput) -> Result<CustomerMergePayload> {
        let into = input.into_id;
        let ran = mutation::run(ctx, input).await?;
        let session = Session::of(ctx)?;
        let into = ran.id.filter(|_| ctx.look_ahead().field("into").exists()).map(|_| into);
        Ok(CustomerMergePayload {
            customer: session.load_written(ran.id).await?,
            into: session.load_opt(into).await?,
            user_errors: ran.user_errors,
        })
    }
}

/// A change of a customer.
#[derive(Debug, SimpleObject)]
pub struct CustomerChange {
    /// The current customer.
    pub customer: Arc<Customer>,
}

/// The subscriptions of the slice.
#[derive(Debug, Default)]
pub struct CustomerSubscription;

#[Subscription]
impl CustomerSubscription {
    /// Emits every customer of the organization whose profile is created or changed, as it is when it is sent.
    async fn customer_changed(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Only changes of this customer.")] id: Option<CustomerId>,
    ) -> Result<impl Stream<Item = Result<CustomerChange>>> {
        follow(ctx, id, |customer| CustomerChange { customer }).await
    }
}
