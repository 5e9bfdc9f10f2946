//! The validation rules of the GraphQL specification, section 5, as the engine has them.

use async_graphql::parser::types::{DocumentOperations, ExecutableDocument, InlineFragment, Selection, SelectionSet};
use async_graphql::{Executor, Positioned, Request, ServerError};
use futures_util::FutureExt as _;

use super::failure::{Failure, coded};
use crate::error::{Code, Error};

/// No operation can have this name.
const IMPOSSIBLE_NAME: &str = "\0";

/// Runs the engine's validation without executing anything.
///
/// The engine validates inside `execute` only, before it looks for the operation. With a name that no operation can have
/// it validates, and then stops; that one error tells that there was no other.
pub(super) fn validate(strict: &impl Executor, document: &ExecutableDocument) -> Result<(), Failure> {
    let mut request = Request::new("").operation_name(IMPOSSIBLE_NAME);
    request.set_parsed_query(document.clone());
    let Some(response) = strict.execute(request).now_or_never() else {
        return Err(Error::internal("validation did not end at once").into());
    };
    match response.errors.as_slice() {
        [only] if only.message.contains(IMPOSSIBLE_NAME) => Ok(()),
        [] => Err(Error::internal("validation executed the document").into()),
        _ => Err(Failure::documents(response.errors.into_iter().map(validation_error).collect())),
    }
}

/// Turns `__typename @skip(if: $x)` into `... @skip(if: $x) { __typename }`, which means the same.
///
/// The engine's rules pass over `__typename`: they neither check the directive nor see that the variable is used.
pub(super) fn wrap_typenames(document: &mut ExecutableDocument) {
    let operations: Vec<_> = match &mut document.operations {
        DocumentOperations::Single(operation) => vec![operation],
        DocumentOperations::Multiple(operations) => operations.values_mut().collect(),
    };
    let sets = operations.into_iter().map(|operation| &mut operation.node.selection_set);
    let mut sets: Vec<_> =
        sets.chain(document.fragments.values_mut().map(|fragment| &mut fragment.node.selection_set)).collect();
    while let Some(set) = sets.pop() {
        for selection in &mut set.node.items {
            if let Selection::Field(field) = &mut selection.node
                && field.node.name.node == "__typename"
                && !field.node.directives.is_empty()
            {
                let directives = std::mem::take(&mut field.node.directives);
                let items = vec![Positioned::new(Selection::Field(field.clone()), field.pos)];
                let selection_set = Positioned::new(SelectionSet { items }, field.pos);
                let wrapped = InlineFragment { type_condition: None, directives, selection_set };
                selection.node = Selection::InlineFragment(Positioned::new(wrapped, field.pos));
            }
            match &mut selection.node {
                Selection::Field(field) => sets.push(&mut field.node.selection_set),
                Selection::InlineFragment(fragment) => sets.push(&mut fragment.node.selection_set),
                Selection::FragmentSpread(_) => {}
            }
        }
    }
}

fn validation_error(error: ServerError) -> ServerError {
    ServerError { locations: error.locations, ..coded(Code::GraphqlValidationFailed, error.message, None) }
}
