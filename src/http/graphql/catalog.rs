//! What the checks before execution need to know of the schema, read once from its SDL.

use std::collections::{HashMap, HashSet};

use async_graphql::parser::parse_schema;
use async_graphql::parser::types::{
    BaseType, DirectiveDefinition, DirectiveLocation, FieldDefinition, InputValueDefinition, OperationType,
    ServiceDocument, Type, TypeDefinition, TypeKind, TypeSystemDefinition,
};
use async_graphql::{Name, Positioned, Value};

use crate::id;

/// The types of introspection, which no SDL has, and the fields of the root that show them (of `Entry`).
const INTROSPECTION: &str = include_str!("introspection.graphql");

/// Longer names are not compared with those that there are.
const MAX_MISTYPED: usize = 60;

/// The schema by name.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    types: HashMap<String, Kind>,
    roots: [Option<String>; 3],
    directives: HashMap<String, Directive>,
    /// `__typename`, which every type has.
    typename: Option<Field>,
    /// Whether messages may name what a caller has not named.
    pub(super) suggestions: bool,
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
    pub(super) name: String,
    /// Whether this is a page of a list (Relay: the name ends in `Connection`).
    pub(super) connection: bool,
    /// Whether this is an interface or a union.
    pub(super) is_abstract: bool,
    /// The objects that a value of this type may be.
    objects: HashSet<String>,
    fields: HashMap<String, Field>,
}

/// A field of an object or interface.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) ty: Type,
    /// The type without lists and `!`.
    pub(super) type_name: String,
    /// Whether the type is a list.
    pub(super) list: bool,
    pub(super) arguments: Inputs,
}

/// Arguments or fields of an input object, in the order of the SDL.
pub(super) type Inputs = Vec<(String, InputField)>;

/// An input object.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) fields: Inputs,
    /// Whether exactly one field is to be given (`@oneOf`).
    pub(super) one_of: bool,
}

/// An argument, or a field of an input object.
#[derive(Debug)]
pub(super) struct InputField {
    pub(super) ty: Type,
    /// The type whose ids are to be given, where that is one.
    pub(super) ids_of: Option<String>,
    /// Whether there is a value where none is given.
    pub(super) has_default: bool,
}

/// A directive. The engine's parser takes all for repeatable; the schema has none that is.
#[derive(Debug)]
pub(super) struct Directive {
    pub(super) arguments: Inputs,
    pub(super) locations: Vec<DirectiveLocation>,
}

impl Catalog {
    /// Reads an SDL. Where it has the types of ids that [`id::typed`] makes, the checks know whose ids are to be given, and
    /// call them `ID` as the published SDL does.
    ///
    /// # Errors
    /// The SDL's syntax error.
    pub(super) fn read(sdl: &str, suggestions: bool) -> Result<Self, async_graphql::parser::Error> {
        let mut catalog = Self { suggestions, ..Self::default() };
        for scalar in ["Int", "Float", "String", "Boolean", "ID"] {
            catalog.types.insert(scalar.to_owned(), Kind::Scalar);
        }
        let mut implements = HashMap::new();
        catalog.add(parse_schema(INTROSPECTION)?, &mut implements);
        catalog.add(parse_schema(sdl)?, &mut implements);
        catalog.relate(&implements);
        if catalog.roots.iter().all(Option::is_none) {
            catalog.roots = ["Query", "Mutation", "Subscription"].map(|root| Some(root.to_owned()));
        }
        if let Some(Kind::Composite(mut entry)) = catalog.types.remove("Entry") {
            catalog.typename = entry.fields.remove("__typename");
            let root = catalog.roots[0].as_ref().and_then(|root| catalog.types.get_mut(root));
            if let Some(Kind::Composite(root)) = root {
                root.fields.extend(entry.fields);
            }
        }
        Ok(catalog)
    }

    fn add(&mut self, document: ServiceDocument, implements: &mut HashMap<String, Vec<Positioned<Name>>>) {
        for definition in document.definitions {
            match definition {
                TypeSystemDefinition::Schema(schema) => {
                    let schema = schema.node;
                    self.roots = [schema.query, schema.mutation, schema.subscription]
                        .map(|root| root.map(|name| name.node.to_string()));
                }
                TypeSystemDefinition::Type(definition) => self.add_type(definition.node, implements),
                TypeSystemDefinition::Directive(directive) => {
                    let DirectiveDefinition { name, arguments, locations, .. } = directive.node;
                    let locations = locations.into_iter().map(|location| location.node).collect();
                    let directive = Directive { arguments: inputs(arguments), locations };
                    self.directives.insert(name.node.to_string(), directive);
                }
            }
        }
    }

    fn add_type(&mut self, definition: TypeDefinition, implements: &mut HashMap<String, Vec<Positioned<Name>>>) {
        let name = definition.name.node.to_string();
        let one_of = definition.directives.iter().any(|directive| directive.node.name.node == "oneOf");
        let composite = |fields: Vec<Positioned<FieldDefinition>>, objects: HashSet<String>, is_abstract| {
            let fields = fields.into_iter().map(|definition| field(definition.node)).collect();
            let connection = name.ends_with("Connection");
            Kind::Composite(Composite { name: name.clone(), connection, is_abstract, objects, fields })
        };
        let kind = match definition.kind {
            TypeKind::Scalar => Kind::Scalar,
            TypeKind::Object(object) => {
                implements.insert(name.clone(), object.implements);
                composite(object.fields, HashSet::from([name.clone()]), false)
            }
            TypeKind::Interface(interface) => composite(interface.fields, HashSet::new(), true),
            TypeKind::Union(union) => {
                let members = union.members.iter().map(|member| member.node.to_string()).collect();
                composite(Vec::new(), members, true)
            }
            TypeKind::Enum(kind) => {
                Kind::Enum(kind.values.into_iter().map(|value| value.node.value.node.to_string()).collect())
            }
            TypeKind::InputObject(input) => Kind::Input(Input { fields: inputs(input.fields), one_of }),
        };
        self.types.insert(name, kind);
    }

    /// Tells interfaces their objects.
    fn relate(&mut self, implements: &HashMap<String, Vec<Positioned<Name>>>) {
        for (object, interfaces) in implements {
            for interface in interfaces {
                if let Some(Kind::Composite(interface)) = self.types.get_mut(interface.node.as_str()) {
                    interface.objects.insert(object.clone());
                }
            }
        }
    }

    /// The type with this name.
    pub(super) fn kind(&self, name: &str) -> Option<&Kind> {
        self.types.get(name)
    }

    /// The names of all types.
    pub(super) fn type_names(&self) -> impl Iterator<Item = &str> {
        self.types.keys().map(String::as_str)
    }

    /// The object, interface or union with this name.
    pub(super) fn composite(&self, name: &str) -> Option<&Composite> {
        match self.types.get(name) {
            Some(Kind::Composite(composite)) => Some(composite),
            _ => None,
        }
    }

    /// The field of a type with this name.
    pub(super) fn field<'a>(&'a self, of: &'a Composite, name: &str) -> Option<&'a Field> {
        if name == "__typename" { self.typename.as_ref() } else { of.fields.get(name) }
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

    /// Of these names the one that a name was probably meant to be.
    pub(super) fn near<'b>(&self, name: &str, known: impl Iterator<Item = &'b str>) -> Option<&'b str> {
        // Comparing costs the product of the lengths, and nobody mistypes a name that long.
        if !self.suggestions || name.len() > MAX_MISTYPED {
            return None;
        }
        let most = 1 + name.len() / 4;
        let name = name.to_lowercase();
        let near = known.map(|known| (strsim::damerau_levenshtein(&name, &known.to_lowercase()), known));
        near.filter(|(distance, _)| *distance <= most).min().map(|(_, known)| known)
    }

    /// The directive with this name.
    pub(super) fn directive(&self, name: &str) -> Option<&Directive> {
        self.directives.get(name)
    }
}

impl Composite {
    /// The names of all fields.
    pub(super) fn field_names(&self) -> impl Iterator<Item = &str> {
        self.fields.keys().map(String::as_str)
    }

    /// Whether a value can be of both types.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.name == other.name || !self.objects.is_disjoint(&other.objects)
    }
}

impl InputField {
    /// Whether it must be given.
    pub(super) fn required(&self) -> bool {
        !self.ty.nullable && !self.has_default
    }
}

/// The argument or field with this name.
pub(super) fn input<'a>(inputs: &'a Inputs, name: &str) -> Option<&'a InputField> {
    inputs.iter().find(|(known, _)| known == name).map(|(_, input)| input)
}

fn field(definition: FieldDefinition) -> (String, Field) {
    let ty = definition.ty.node;
    let field = Field {
        type_name: named(&ty).to_owned(),
        list: matches!(ty.base, BaseType::List(_)),
        ty,
        arguments: inputs(definition.arguments),
    };
    (definition.name.node.to_string(), field)
}

fn inputs(definitions: Vec<Positioned<InputValueDefinition>>) -> Inputs {
    let inputs = definitions.into_iter().map(|definition| {
        let mut ty = definition.node.ty.node;
        let ids_of = id::typed_name(named(&ty)).map(str::to_owned);
        if ids_of.is_some() {
            rename(&mut ty, "ID");
        }
        // A default of null lets nobody leave out what may not be null.
        let has_default = definition.node.default_value.is_some_and(|default| default.node != Value::Null);
        (definition.node.name.node.to_string(), InputField { ty, ids_of, has_default })
    });
    inputs.collect()
}

/// The name of a type without its lists.
pub(super) fn named(ty: &Type) -> &str {
    match &ty.base {
        BaseType::Named(name) => name.as_str(),
        BaseType::List(inner) => named(inner),
    }
}

fn rename(ty: &mut Type, name: &str) {
    match &mut ty.base {
        BaseType::Named(old) => *old = Name::new(name),
        BaseType::List(inner) => rename(inner, name),
    }
}
