//! The derive macro `Children` of `flowright`.

use proc_macro::TokenStream;
use quote::quote;
use syn::{
    Attribute, Data, DeriveInput, Expr, ExprLit, Fields, GenericArgument, Lit, PathArguments, Type,
    parse_macro_input,
};

/// Implements `Children` for a Flow: its children are the fields whose type is `WorkRef`, `FlowRef`, or an `Option`,
/// `Vec`, `HashMap` or `BTreeMap` of them. All other fields are the Flow's own state.
///
/// # Errors
/// Compile errors for a type that is not a struct, for a child in a tuple struct or in any other collection, and for a
/// child that serde would serialise under another name.
#[proc_macro_derive(Children)]
pub fn derive_children(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand(&input).unwrap_or_else(|error| error.to_compile_error()).into()
}

fn expand(input: &DeriveInput) -> syn::Result<proc_macro2::TokenStream> {
    let Data::Struct(data) = &input.data else {
        return Err(syn::Error::new_spanned(
            &input.ident,
            "a Flow is a struct with named fields: its children are fields, and their names are the fields' names",
        ));
    };
    for field in data.fields.iter().filter(|field| !holds_children(&field.ty)) {
        let ty = &field.ty;
        if mentions_children(quote!(#ty)) {
            return Err(syn::Error::new_spanned(
                &field.ty,
                "children can only be `WorkRef`, `FlowRef`, and `Option`, `Vec`, `HashMap`, `BTreeMap` of them; \
                 the `WorkRef` or `FlowRef` in this type would never be part of the App",
            ));
        }
    }
    let fields: Vec<_> = match &data.fields {
        Fields::Named(fields) => fields.named.iter().filter(|field| holds_children(&field.ty)).collect(),
        Fields::Unit => Vec::new(),
        Fields::Unnamed(fields) => match fields.unnamed.iter().find(|field| holds_children(&field.ty)) {
            Some(field) => {
                return Err(syn::Error::new_spanned(
                    &field.ty,
                    "a child is called what its field is called, so give this field a name: `struct … { name: … }`",
                ));
            }
            None => Vec::new(),
        },
    };
    let convention = renamed_by(&input.attrs, "rename_all")?;
    for field in &fields {
        let name = field.ident.as_ref().map(|ident| ident.to_string().trim_start_matches("r#").to_owned());
        let name = name.unwrap_or_default();
        let other = renamed_by(&field.attrs, "rename")?.filter(|other| *other != name);
        let by_convention = convention.as_ref().filter(|convention| changes(convention, &name));
        if other.is_some() || by_convention.is_some() {
            return Err(syn::Error::new_spanned(
                field,
                format!(
                    "a child is called what its field is called, here `{name}`, in its path and in the state alike: rename the \
                     field itself, without serde's `rename` or `rename_all`"
                ),
            ));
        }
    }
    let idents: Vec<_> = fields.iter().filter_map(|field| field.ident.as_ref()).collect();
    let names: Vec<_> =
        idents.iter().map(|ident| ident.to_string().trim_start_matches("r#").to_owned()).collect();
    let types: Vec<_> = fields.iter().map(|field| &field.ty).collect();
    let own = own_fields(&data.fields, convention.as_deref())?;
    let name = &input.ident;
    let (generics, arguments, bounds) = input.generics.split_for_impl();
    Ok(quote! {
        #[automatically_derived]
        impl #generics ::flowright::derive::Children for #name #arguments #bounds {
            fn kinds(kinds: &mut ::flowright::derive::Kinds) {
                let _ = &kinds;
                #(kinds.field::<#types>();)*
            }

            fn walk(&mut self, walk: &mut ::flowright::derive::Walk<'_>) {
                let _ = &walk;
                #(walk.field(#names, &mut self.#idents);)*
            }

            fn find(
                &mut self,
                route: ::flowright::derive::Route<'_>,
            ) -> ::core::option::Option<::flowright::derive::Found<'_>> {
                let (name, rest) = route.next();
                let _ = &rest;
                match name {
                    #(#names => ::flowright::derive::ChildGroup::find(&mut self.#idents, rest),)*
                    _ => ::core::option::Option::None,
                }
            }

            fn restore(&mut self, fields: &mut ::flowright::derive::OwnFields<'_>) {
                #[allow(unused_imports)]
                use ::flowright::derive::{ByDeserialize as _, ByNothing as _};
                let _ = &fields;
                #(fields.child(#names);)*
                #(#own)*
            }
        }
    })
}

/// Returns the statements that restore the fields which are not children.
fn own_fields(fields: &Fields, convention: Option<&str>) -> syn::Result<Vec<proc_macro2::TokenStream>> {
    let mut statements = Vec::new();
    for field in fields.iter().filter(|field| !holds_children(&field.ty)) {
        let Some(ident) = &field.ident else {
            statements.push(quote!(fields.unnamed();));
            break;
        };
        if mentioned(&field.attrs, &["skip", "skip_serializing"])?.is_some() {
            continue;
        }
        let rust_name = ident.to_string().trim_start_matches("r#").to_owned();
        let name = match renamed_by(&field.attrs, "rename")? {
            Some(name) => name,
            None => convention
                .map_or_else(|| rust_name.clone(), |convention| by_convention(convention, &rust_name)),
        };
        if let Some(attribute) = mentioned(&field.attrs, &["with", "serialize_with", "flatten"])? {
            statements.push(quote!(fields.unrestorable(#name, #attribute);));
            continue;
        }
        let ty = &field.ty;
        let is_optional = mentioned(&field.attrs, &["default", "skip_serializing_if"])?.is_some();
        statements.push(quote! {
            let read = (&::flowright::derive::FieldReader::<#ty>::new()).reader();
            fields.field(#name, #is_optional, read, &mut self.#ident);
        });
    }
    Ok(statements)
}

/// Returns the first of serde's attributes `names` that is among the attributes.
fn mentioned(attributes: &[Attribute], names: &[&'static str]) -> syn::Result<Option<&'static str>> {
    let mut found = None;
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("serde")) {
        attribute.parse_nested_meta(|meta| {
            found = found.or(names.iter().find(|name| meta.path.is_ident(name)).copied());
            if meta.input.peek(syn::token::Paren) {
                return meta.parse_nested_meta(|meta| {
                    let _: Expr = meta.value()?.parse()?;
                    Ok(())
                });
            }
            if meta.input.peek(syn::Token![=]) {
                let _: Expr = meta.value()?.parse()?;
            }
            Ok(())
        })?;
    }
    Ok(found)
}

/// Returns the name that one of serde's conventions for `rename_all` gives to a field in snake case.
fn by_convention(convention: &str, name: &str) -> String {
    let capitalised = |word: &str| {
        let mut letters = word.chars();
        letters
            .next()
            .map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + letters.as_str())
    };
    let pascal = || name.split('_').map(capitalised).collect::<String>();
    match convention {
        "UPPERCASE" | "SCREAMING_SNAKE_CASE" => name.to_ascii_uppercase(),
        "PascalCase" => pascal(),
        "camelCase" => {
            let pascal = pascal();
            let mut letters = pascal.chars();
            letters
                .next()
                .map_or_else(String::new, |first| first.to_ascii_lowercase().to_string() + letters.as_str())
        }
        "kebab-case" => name.replace('_', "-"),
        "SCREAMING-KEBAB-CASE" => name.to_ascii_uppercase().replace('_', "-"),
        _ => name.to_owned(),
    }
}

/// Returns the serialised name set by serde's attribute `key`: `rename = "…"` or `rename(serialize = "…")`.
fn renamed_by(attributes: &[Attribute], key: &str) -> syn::Result<Option<String>> {
    let mut name = None;
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("serde")) {
        attribute.parse_nested_meta(|meta| {
            let is_it = meta.path.is_ident(key);
            if meta.input.peek(syn::token::Paren) {
                return meta.parse_nested_meta(|meta| {
                    let value: Expr = meta.value()?.parse()?;
                    if is_it && meta.path.is_ident("serialize") {
                        name = text_of(&value);
                    }
                    Ok(())
                });
            }
            if meta.input.peek(syn::Token![=]) {
                let value: Expr = meta.value()?.parse()?;
                if is_it {
                    name = text_of(&value);
                }
            }
            Ok(())
        })?;
    }
    Ok(name)
}

fn text_of(value: &Expr) -> Option<String> {
    match value {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value()),
        _ => None,
    }
}

/// Returns true if one of serde's conventions for `rename_all` changes the name of a field.
fn changes(convention: &str, name: &str) -> bool {
    match convention {
        "snake_case" => false,
        "lowercase" => name.chars().any(char::is_uppercase),
        "camelCase" | "kebab-case" => name.contains('_'),
        _ => true,
    }
}

/// Returns true if a `WorkRef` or `FlowRef` occurs anywhere in the tokens.
fn mentions_children(tokens: proc_macro2::TokenStream) -> bool {
    tokens.into_iter().any(|token| match token {
        proc_macro2::TokenTree::Ident(ident) => ident == "WorkRef" || ident == "FlowRef",
        proc_macro2::TokenTree::Group(group) => mentions_children(group.stream()),
        _ => false,
    })
}

/// Returns true for a `WorkRef`, a `FlowRef` or a collection of them, by name, since a macro has no type information.
fn holds_children(ty: &Type) -> bool {
    // A type passed through a `macro_rules!` macro is wrapped in an invisible group.
    if let Type::Group(group) = ty {
        return holds_children(&group.elem);
    }
    if let Type::Paren(paren) = ty {
        return holds_children(&paren.elem);
    }
    let Type::Path(path) = ty else { return false };
    let Some(last) = path.path.segments.last() else { return false };
    if last.ident == "WorkRef" || last.ident == "FlowRef" {
        return true;
    }
    if !["Option", "Vec", "HashMap", "BTreeMap"].iter().any(|collection| last.ident == collection) {
        return false;
    }
    let PathArguments::AngleBracketed(arguments) = &last.arguments else { return false };
    arguments.args.iter().any(|argument| matches!(argument, GenericArgument::Type(ty) if holds_children(ty)))
}
