//! What becomes of a refund's money in its budget.

use serde_json::{Value, json};

use crate::budgets::{self, Books, BudgetType, LONGEST, Payment, Standing, Taking};
use crate::error::Result;
use crate::graphql::mutation::{UserError, VerbError, VerbResult};
use crate::refunds::sql::Locked;

/// What budgets call the source.
const SOURCE: &str = "refund";

fn taking<'a>(row: &'a Locked, budget: &'a [crate::id::BudgetId]) -> Taking<'a> {
    Taking {
        budgets: budget,
        amount_minor: row.amount_minor,
        currency: &row.currency,
        source: SOURCE,
        resource_id: Some(row.id.uuid()),
    }
}

/// Errors of the budget, at the fields of a refund.
fn of_refund(error: VerbError) -> VerbError {
    let VerbError::User(errors) = error else { return error };
    let moved = errors.into_iter().map(|error| match error.field.get(1).map(String::as_str) {
        Some("budgetIds" | "reservationId") => UserError::new("budgetId", error.code, error.message),
        _ => error,
    });
    VerbError::User(moved.collect())
}

async fn standing(books: &mut Books<'_>, row: &Locked) -> Result<Standing> {
    match row.reservation_id {
        Some(id) => budgets::standing(books, id).await,
        None => Ok(Standing::Over),
    }
}

/// Sees to it that the amount is set aside: what has expired is reserved again. Without a budget nothing is.
///
/// # Errors
/// What the caller can mend: the budget has not enough left, or was archived.
pub(super) async fn hold(books: &mut Books<'_>, row: &mut Locked) -> VerbResult<()> {
    let Some(budget) = row.budget_id else { return Ok(()) };
    if standing(books, row).await? != Standing::Over {
        return Ok(());
    }
    let reserved = budgets::reserve(books, &taking(row, &[budget]), LONGEST).await.map_err(of_refund)?;
    row.reservation_id = Some(reserved);
    Ok(())
}

/// Holds the amount for a payment that may be made from here on: its result counts in full whenever it comes.
///
/// # Errors
/// As [`hold`].
pub(super) async fn hold_for_payment(books: &mut Books<'_>, row: &mut Locked) -> VerbResult<()> {
    hold(books, row).await?;
    if let Some(reservation) = row.reservation_id {
        // One that has expired in flight counts in full as it is.
        budgets::mark_in_flight(books, reservation).await?;
    }
    Ok(())
}

/// Counts what was paid: in the period of its reservation, or, where that is over, in the current one whatever the limit. Says where
/// it could not be counted: the money is gone all the same.
pub(super) async fn spend(books: &mut Books<'_>, row: &mut Locked) -> Result<Option<Value>> {
    let spent = match (standing(books, row).await?, row.reservation_id) {
        (Standing::Settled, _) => return Ok(None),
        (Standing::Open | Standing::ExpiredInFlight, Some(reservation)) => {
            budgets::settle(books, reservation, None).await.map(|_| ())
        }
        _ => spend_anew(books, row).await,
    };
    match spent {
        Ok(()) => Ok(None),
        Err(VerbError::Fail(error)) => Err(error),
        Err(VerbError::User(errors)) => {
            let why: Vec<&str> = errors.iter().map(|error| error.message.as_str()).collect();
            tracing::warn!(refund = %row.id, why = ?why, "a refund was paid and its budget does not take it");
            Ok(Some(json!(why)))
        }
    }
}

async fn spend_anew(books: &mut Books<'_>, row: &mut Locked) -> VerbResult<()> {
    row.reservation_id = None;
    let Some(budget) = row.budget_id else { return Ok(()) };
    let reserved = budgets::reserve_paid(books, &taking(row, &[budget])).await?;
    budgets::settle(books, reserved, None).await?;
    row.reservation_id = Some(reserved);
    Ok(())
}

/// Gives back what is held or was spent: the payment has failed, came back, or is not to be made.
pub(super) async fn free(books: &mut Books<'_>, row: &Locked) -> Result<()> {
    let freed = match (standing(books, row).await?, row.reservation_id) {
        (Standing::Open, Some(reservation)) => budgets::release(books, reservation, Payment::Failed).await,
        (Standing::Settled, Some(reservation)) => budgets::give_back(books, reservation).await,
        _ => return Ok(()),
    };
    match freed {
        Ok(_) => Ok(()),
        Err(VerbError::Fail(error)) => Err(error),
        Err(VerbError::User(errors)) => {
            Err(crate::error::Error::internal(format!("a reservation cannot be freed: {errors:?}")))
        }
    }
}

/// The budget of refunds in this currency, where none is named.
///
/// # Errors
/// When the database cannot be reached.
pub(super) async fn default_budget(books: &mut Books<'_>, currency: &str) -> Result<Option<crate::id::BudgetId>> {
    budgets::default_budget(books, BudgetType::Refund, currency).await
}
