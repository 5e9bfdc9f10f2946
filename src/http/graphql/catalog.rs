//! What the checks before execution need to know of the schema, read once from its SDL.

use std::collections::{HashMap, HashSet};

use async_graphql::parser::parse_schema;
use async_graphql::parser::types::{
    BaseType, DirectiveLocation, FieldDefinition, InputValueDefinition, OperationType, ServiceDocument, Type, TypeKind,
    TypeSystemDefinition,
};

/// The schema by name.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    types: HashMap<String, Kind>,
    roots: [Option<String>; 3],
    directives: HashSet<String>,
}

/// A type.
#[derive(Debug)]
pub(super) enum Kind {
    /// An object, interface or union.
    Composite(Composite),
    /// An enum with its values.
    Enum(Vec<String>),
    /// An input object.
    Input(Input),
    /// A scalar.
    Scalar,
}

/// A type that is selected from.
#[derive(Debug)]
pub(super) struct Composite {
    /// Whether this is a page of a list (Relay: the name ends in `Connection`).
    pub(super) connection: bool,
    fields: HashMap<String, Field>,
}

/// A field of an object or interface.
#[derive(Debug)]
pub(super) struct Field {
    /// The type without lists and `!`.
    pub(super) type_name: String,
    /// Whether the type is a list.
    pub(super) list: bool,
    pub(super) arguments: HashMap<String, Type>,
}

/// An input object.
#[derive(Debug)]
pub(super) struct Input {
    /// The fields, in the order of the SDL.
    pub(super) fields: Vec<(String, InputField)>,
    /// Whether exactly one field is to be given (`@oneOf`).
    pub(super) one_of: bool,
}

/// A field of an input object.
#[derive(Debug)]
pub(super) struct InputField {
    pub(super) ty: Type,
    /// Whether it must be given.
    pub(super) required: bool,
}

impl Catalog {
    /// Reads an SDL.
    ///
    /// # Errors
    /// The SDL's syntax error.
    pub(super) fn read(sdl: &str) -> Result<Self, async_graphql::parser::Error> {
        let mut catalog = Self::default();
        for scalar in ["Int", "Float", "String", "Boolean", "ID"] {
            catalog.types.insert(scalar.to_owned(), Kind::Scalar);
        }
        catalog.directives.extend(["skip".to_owned(), "include".to_owned()]);
        catalog.add(parse_schema(sdl)?);
        Ok(catalog)
    }

    fn add(&mut self, document: ServiceDocument) {
        for definition in document.definitions {
            match definition {
                TypeSystemDefinition::Schema(schema) => {
                    let schema = schema.node;
                    self.roots = [schema.query, schema.mutation, schema.subscription]
                        .map(|root| root.map(|name| name.node.to_string()));
                }
                TypeSystemDefinition::Type(definition) => {
                    let name = definition.node.name.node.to_string();
                    let one_of = definition.node.directives.iter().any(|directive| directive.node.name.node == "oneOf");
                    let connection = name.ends_with("Connection");
                    let composite = |fields: Vec<_>| {
                        let fields = fields.into_iter().map(field).collect();
                        Kind::Composite(Composite { connection, fields })
                    };
                    let kind = match definition.node.kind {
                        TypeKind::Scalar => Kind::Scalar,
                        TypeKind::Object(object) => composite(object.fields.into_iter().map(|f| f.node).collect()),
                        TypeKind::Interface(object) => composite(object.fields.into_iter().map(|f| f.node).collect()),
                        TypeKind::Union(_) => composite(Vec::new()),
                        TypeKind::Enum(e) => {
                            Kind::Enum(e.values.into_iter().map(|value| value.node.value.node.to_string()).collect())
                        }
                        TypeKind::InputObject(input) => {
                            let fields = input.fields.into_iter().map(|field| input_field(field.node)).collect();
                            Kind::Input(Input { fields, one_of })
                        }
                    };
                    self.types.insert(name, kind);
                }
                TypeSystemDefinition::Directive(directive) => {
                    let directive = directive.node;
                    if directive.locations.iter().any(|location| is_executable(location.node)) {
                        self.directives.insert(directive.name.node.to_string());
                    }
                }
            }
        }
    }

    /// The type with this name.
    pub(super) fn kind(&self, name: &str) -> Option<&Kind> {
        self.types.get(name)
    }

    /// The object, interface or union with this name.
    pub(super) fn composite(&self, name: &str) -> Option<&Composite> {
        match self.types.get(name) {
            Some(Kind::Composite(composite)) => Some(composite),
            _ => None,
        }
    }

    /// The root type of an operation.
    pub(super) fn root(&self, ty: OperationType) -> Option<&Composite> {
        let index = match ty {
            OperationType::Query => 0,
            OperationType::Mutation => 1,
            OperationType::Subscription => 2,
        };
        self.composite(self.roots[index].as_deref()?)
    }

    /// Whether operations may use the directive.
    pub(super) fn has_directive(&self, name: &str) -> bool {
        self.directives.contains(name)
    }
}

impl Composite {
    /// The field with this name.
    pub(super) fn field(&self, name: &str) -> Option<&Field> {
        self.fields.get(name)
    }
}

fn field(definition: FieldDefinition) -> (String, Field) {
    let ty = &definition.ty.node;
    let arguments = definition.arguments.into_iter().map(|argument| {
        let argument = argument.node;
        (argument.name.node.to_string(), argument.ty.node)
    });
    let field = Field {
        type_name: named(ty).to_owned(),
        list: matches!(ty.base, BaseType::List(_)),
        arguments: arguments.collect(),
    };
    (definition.name.node.to_string(), field)
}

fn input_field(definition: InputValueDefinition) -> (String, InputField) {
    let required = !definition.ty.node.nullable && definition.default_value.is_none();
    (definition.name.node.to_string(), InputField { ty: definition.ty.node, required })
}

/// The name of a type without its lists.
pub(super) fn named(ty: &Type) -> &str {
    match &ty.base {
        BaseType::Named(name) => name.as_str(),
        BaseType::List(inner) => named(inner),
    }
}

fn is_executable(location: DirectiveLocation) -> bool {
    use DirectiveLocation as L;
    matches!(
        location,
        L::Query
            | L::Mutation
            | L::Subscription
            | L::Field
            | L::FragmentDefinition
            | L::FragmentSpread
            | L::InlineFragment
            | L::VariableDefinition
    )
}
