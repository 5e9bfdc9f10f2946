//! What an operation is charged, from its admission to its end.

use std::sync::Arc;

use async_graphql::parser::types::OperationType;

use super::document::Prepared;
use super::failure::Failure;
use crate::flags::snapshot::OrganizationFlags;
use crate::graphql::Session;
use crate::http::Edge;
use crate::id::OrganizationId;
use crate::plans::OrganizationPlan;
use crate::rates::{Charged, Standing};

/// The charge for an operation. Dropped, it is settled: also when the client went away.
pub(super) struct Charge {
    edge: Arc<Edge>,
    session: Arc<Session>,
    charged: Charged,
    is_settled: bool,
}

impl Charge {
    /// Charges an operation and gives it a lane to wait in.
    ///
    /// # Errors
    /// `RATE_LIMITED` when there is not enough at the moment or too many wait, `QUERY_TOO_EXPENSIVE` when there never is enough.
    pub(super) fn take(edge: &Arc<Edge>, session: &Arc<Session>, prepared: &Prepared) -> Result<Self, Failure> {
        let charged = edge.rates.take(session.payer(), prepared.cost, &|organization| plan_of(edge, organization))?;
        let (edge, session) = (Arc::clone(edge), Arc::clone(session));
        let charge = Self { edge, session, charged, is_settled: false };
        let ty = prepared.operation.ty;
        let lane = charge.session.stand(charged.organization(), ty == OperationType::Subscription);
        charge.edge.services.db.check(lane, ty == OperationType::Mutation)?;
        Ok(charge)
    }

    /// Charges whom the operation was let into, which is known by now.
    pub(super) fn settle(&mut self) {
        if std::mem::replace(&mut self.is_settled, true) {
            return;
        }
        let (edge, session) = (&self.edge, &self.session);
        let plan_of = |organization| plan_of(edge, organization);
        edge.rates.settle(&mut self.charged, session.entered(), session.was_refused(), &plan_of);
    }

    /// What it costs and what is left.
    pub(super) fn standing(&self) -> Standing {
        self.edge.rates.standing(&self.charged, &|organization| plan_of(&self.edge, organization))
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.settle();
    }
}

/// The plan of an organization, as long as this process knows what the database says.
fn plan_of(edge: &Edge, organization: OrganizationId) -> Option<OrganizationPlan> {
    let snapshot = edge.flags.snapshot().ok()?;
    Some(snapshot.organization(organization).map_or(OrganizationPlan::Free, OrganizationFlags::plan))
}
