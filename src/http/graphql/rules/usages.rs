//! The rules about variables: GraphQL specification, section 5.8, for an operation with all the fragments it reaches.

use std::collections::{HashMap, HashSet};

use async_graphql::parser::types::{BaseType, OperationDefinition, Type, VariableDefinition};
use async_graphql::{Name, Positioned, Value};

use super::super::catalog::{Catalog, Kind, named};
use super::super::told::{Path, Short};
use super::super::values::{Check, Expected, Usage, UsagePlace};
use super::super::variables::IdUse;
use super::Faults;
use super::walk::Scope;
use crate::error::Code;

/// Checks the variables of an operation. Gives those that stand where ids of one type are expected, and adds the fragments
/// it reaches to `used`.
pub(super) fn check<'a>(
    catalog: &Catalog,
    name: Option<&Name>,
    operation: &'a Positioned<OperationDefinition>,
    scope: &Scope<'a>,
    fragments: &HashMap<&'a str, Scope<'a>>,
    used: &mut HashSet<&'a str>,
    faults: &mut Faults,
) -> Vec<IdUse> {
    let mut declared: HashMap<&str, &Positioned<VariableDefinition>> = HashMap::new();
    for definition in &operation.node.variable_definitions {
        declare(catalog, definition, faults);
        if declared.insert(definition.node.name.node.as_str(), definition).is_some() {
            let message = format!("The variable ${} is declared twice.", Short(&definition.node.name.node));
            faults.add("UniqueVariableNames", message, definition.pos);
        }
    }
    let mut ids = HashSet::new();
    let mut unused: HashSet<&str> = declared.keys().copied().collect();
    for scope in reached(scope, fragments, used) {
        for (usage, pos) in &scope.usages {
            if faults.full() {
                return Vec::new();
            }
            let Some(definition) = declared.get(usage.variable.as_str()) else {
                let of = name.map(|name| format!(" of the operation {}", Short(name))).unwrap_or_default();
                let message = format!("The variable ${} is none{of}: declare it.", Short(&usage.variable));
                faults.add("NoUndefinedVariables", message, *pos);
                continue;
            };
            unused.remove(usage.variable.as_str());
            if let Some(place) = &usage.place {
                if let Some(message) = misplaced(catalog, usage, place, &definition.node) {
                    faults.add("VariablesInAllowedPosition", message, *pos);
                }
                let UsagePlace { ids_of, coordinate, .. } = place;
                ids.extend(ids_of.clone().map(|of| IdUse {
                    variable: usage.variable.clone(),
                    of,
                    coordinate: coordinate.clone(),
                }));
            }
        }
    }
    for name in unused {
        if let Some(definition) = declared.get(name) {
            let message = format!("The variable ${} is not used: use it or leave it out.", Short(name));
            faults.add("NoUnusedVariables", message, definition.pos);
        }
    }
    ids.into_iter().collect()
}

/// The operation's own scope and those of the fragments it reaches, each once.
fn reached<'s, 'a>(
    scope: &'s Scope<'a>,
    fragments: &'s HashMap<&'a str, Scope<'a>>,
    used: &mut HashSet<&'a str>,
) -> Vec<&'s Scope<'a>> {
    let (mut reached, mut seen, mut next) = (vec![scope], HashSet::new(), 0);
    while let Some(scope) = reached.get(next).copied() {
        next += 1;
        let spread = scope.spreads.iter().filter(|name| seen.insert(**name));
        let spread: Vec<_> = spread.filter_map(|name| fragments.get(name)).collect();
        reached.extend(spread);
    }
    used.extend(seen);
    reached
}

/// The type of a variable is an input's, and its default is of that type.
fn declare(catalog: &Catalog, definition: &Positioned<VariableDefinition>, faults: &mut Faults) {
    let VariableDefinition { name, var_type, default_value, .. } = &definition.node;
    let (ty, name) = (&var_type.node, &name.node);
    match catalog.kind(named(ty)) {
        Some(Kind::Composite(_)) => {
            let message = format!("The variable ${} is of type {ty}, which is no type of inputs.", Short(name));
            faults.add("VariablesAreInputTypes", message, var_type.pos);
        }
        None => {
            let known = named(ty);
            let near = if faults.suggest() { catalog.near(known, catalog.type_names()) } else { None };
            let near = near.map(|near| format!(" Did you mean {near}?")).unwrap_or_default();
            faults.add("KnownTypeNames", format!("There is no type {}.{near}", Short(known)), var_type.pos);
        }
        Some(_) => {
            let Some(default) = default_value else { return };
            let mut check = Check { catalog, max_depth: usize::MAX, literal: true, usages: Vec::new() };
            let checked = check.value(Expected::of_variable(ty), &mut default.node.clone(), &Path::variable(name), 0);
            if let Err(fault) = checked {
                faults.add_error("ValuesOfCorrectType", fault.error(Code::InvalidArgument, Some(default.pos)));
            }
        }
    }
}

/// Why a variable cannot stand where it stands (section 5.8.5, `IsVariableUsageAllowed`).
fn misplaced(catalog: &Catalog, usage: &Usage, place: &UsagePlace, variable: &VariableDefinition) -> Option<String> {
    let ty = &variable.var_type.node;
    // What is unknown was said.
    catalog.kind(named(ty))?;
    let there = Type::new(&place.ty)?;
    let has_default = variable.default_value.as_ref().is_some_and(|default| default.node != Value::Null);
    let fits = if there.nullable || !ty.nullable {
        compatible(ty, &there)
    } else {
        (has_default || place.has_default) && compatible(ty, &Type { nullable: true, ..there.clone() })
    };
    if fits && !(place.one_of && ty.nullable) {
        return None;
    }
    let right = if place.one_of { format!("{}!", place.ty) } else { place.ty.clone() };
    Some(format!(
        "The variable ${} is of type {ty} and stands where {right} is expected. See {}.",
        Short(&usage.variable),
        place.coordinate
    ))
}

/// `AreTypesCompatible`.
fn compatible(variable: &Type, place: &Type) -> bool {
    if variable.nullable && !place.nullable {
        return false;
    }
    match (&variable.base, &place.base) {
        (BaseType::Named(variable), BaseType::Named(place)) => variable == place,
        (BaseType::List(variable), BaseType::List(place)) => compatible(variable, place),
        _ => false,
    }
}
