//! The derive macro `Children` of `flowright`.

use proc_macro::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned as _;
use syn::{
    Attribute, Data, DeriveInput, Expr, ExprLit, Field, Fields, GenericArgument, Lit, PathArguments, Type,
    parse_macro_input,
};

/// Implements `Children` for a Flow: its children are the fields whose type is `WorkRef`, `FlowRef`, `ServiceRef`, or an `Option`,
/// `Vec`, `HashMap` or `BTreeMap` of them. All other fields are the Flow's own state.
///
/// # Errors
/// Compile errors for a type that is not a struct, for a child in a tuple struct or in any other collection, and for a
/// child that serde would serialise under another name.
#[proc_macro_derive(Children, attributes(serde))]
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
                "children can only be `WorkRef`, `FlowRef`, `ServiceRef`, and `Option`, `Vec`, `HashMap`, `BTreeMap` of them; \
                 the child in this type would never be part of the App",
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
    let Durability { save, prepare, rebuild, check } =
        Durability::of(input, &data.fields, convention.as_deref())?;
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

            fn save<__S: ::flowright::derive::Serializer>(
                &self,
                serializer: __S,
            ) -> ::core::result::Result<__S::Ok, __S::Error> {
                #[allow(unused_imports, reason = "a Flow without fields of its own needs none")]
                use ::flowright::derive::{BySerialize as _, WithoutSerialize as _};
                #save
            }

            fn shapes(&self, shapes: &mut ::flowright::derive::Shapes) {
                let _ = &shapes;
                #(shapes.add(#names, ::flowright::derive::ChildGroup::shape(&self.#idents));)*
            }

            fn prepare(&self, flow: &mut ::flowright::derive::Preparation<'_, '_, Self>)
            where
                Self: 'static,
            {
                #[allow(unused_imports, reason = "a Flow without fields of its own needs none")]
                use ::flowright::derive::{ByDeserialize as _, WithoutDeserialize as _};
                let _ = &flow;
                #(#prepare)*
            }

            fn rebuild(flow: &mut ::flowright::derive::Rebuild<'_, '_>) -> ::core::option::Option<Self>
            where
                Self: 'static,
            {
                #[allow(unused_imports, reason = "a Flow without fields of its own needs none")]
                use ::flowright::derive::{
                    ByDefault as _, ByDeserialize as _, WithoutDefault as _, WithoutDeserialize as _,
                };
                let _ = &flow;
                #rebuild
            }

            fn check(check: &mut ::flowright::derive::Check) {
                #[allow(unused_imports, reason = "a Flow without fields of its own needs none")]
                use ::flowright::derive::{
                    ByDefault as _, ByDeserialize as _, BySerialize as _, ByWork as _, WithoutDefault as _,
                    WithoutDeserialize as _, WithoutSerialize as _, WithoutWork as _,
                };
                let _ = &check;
                #(#check)*
            }
        }
    })
}

/// The code that saves a Flow, restores it, and makes it anew.
struct Durability {
    save: proc_macro2::TokenStream,
    prepare: Vec<proc_macro2::TokenStream>,
    rebuild: proc_macro2::TokenStream,
    check: Vec<proc_macro2::TokenStream>,
}

impl Durability {
    fn of(input: &DeriveInput, fields: &Fields, convention: Option<&str>) -> syn::Result<Self> {
        if fields.iter().any(|field| field.ident.is_none()) {
            // A tuple struct has no children; its fields have no names.
            return Ok(Self {
                save: quote!(::flowright::derive::refuse_unnamed(serializer)),
                prepare: vec![quote!(flow.unnamed();)],
                rebuild: quote! {
                    flow.unnamed();
                    ::core::option::Option::None
                },
                check: vec![quote!(check.unnamed();)],
            });
        }
        let all_have_defaults = mentioned(&input.attrs, &["default"])?.is_some();
        let (mut save, mut prepare, mut check) = (Vec::new(), Vec::new(), Vec::new());
        let (mut values, mut made, mut idents) = (Vec::new(), Vec::new(), Vec::new());
        for (number, field) in fields.iter().enumerate() {
            let Some(ident) = &field.ident else { continue };
            let code = FieldCode::of(field, ident, convention, all_have_defaults)?;
            save.extend(code.save);
            prepare.extend(code.prepare);
            check.push(code.check);
            let value = format_ident!("field_{number}");
            let rebuild = code.rebuild;
            values.push(quote!(let #value = #rebuild;));
            made.push(value);
            idents.push(ident);
        }
        let count = save.len();
        Ok(Self {
            save: quote! {
                #[allow(unused_mut, reason = "a Flow without fields of its own writes none")]
                let mut fields = ::flowright::derive::OwnWriter::new(serializer, #count)?;
                #(#save)*
                fields.end()
            },
            prepare,
            rebuild: quote! {
                #(#values)*
                // All fields have been read, so that each one that cannot be is reported.
                #(let #made = #made?;)*
                ::core::option::Option::Some(Self { #(#idents: #made.into_inner(),)* })
            },
            check,
        })
    }
}

/// The code for one field of a Flow.
struct FieldCode {
    save: Option<proc_macro2::TokenStream>,
    prepare: Option<proc_macro2::TokenStream>,
    rebuild: proc_macro2::TokenStream,
    check: proc_macro2::TokenStream,
}

impl FieldCode {
    fn of(
        field: &Field,
        ident: &proc_macro2::Ident,
        convention: Option<&str>,
        all_have_defaults: bool,
    ) -> syn::Result<Self> {
        let ty = &field.ty;
        let rust_name = ident.to_string().trim_start_matches("r#").to_owned();
        let of_type = quote!((&::flowright::derive::FieldType::<#ty>::new()));
        let default = match default_path(&field.attrs)? {
            Some(path) => quote!(::core::option::Option::Some(#path as fn() -> #ty)),
            None => quote!(#of_type.maker()),
        };
        if holds_children(ty) {
            return Ok(Self {
                save: None,
                prepare: Some(quote! {
                    flow.child(
                        #rust_name,
                        |shape, restoring| ::flowright::derive::ChildGroup::prepare(&self.#ident, shape, restoring),
                        |flow| &mut flow.#ident,
                    );
                }),
                rebuild: quote! {
                    flow.child(
                        #rust_name,
                        |shape, restoring| <#ty as ::flowright::derive::ChildGroup>::rebuild(shape, restoring),
                        #default,
                    )
                },
                check: quote!(<#ty as ::flowright::derive::ChildGroup>::check(check);),
            });
        }
        let role = quote_spanned!(ty.span() => ::flowright::derive::require_own::<#ty, _>(#of_type.role()););
        if mentioned(&field.attrs, &["skip", "skip_serializing", "skip_deserializing"])?.is_some() {
            return Ok(Self {
                save: None,
                prepare: None,
                rebuild: quote!(flow.skipped(#rust_name, #default)),
                check: quote! {
                    #role
                    check.skipped::<#ty>(#rust_name, #default.is_some());
                },
            });
        }
        let name = match renamed_by(&field.attrs, "rename")? {
            Some(name) => name,
            None => convention
                .map_or_else(|| rust_name.clone(), |convention| by_convention(convention, &rust_name)),
        };
        const UNUSABLE: [&str; 4] = ["with", "serialize_with", "deserialize_with", "flatten"];
        if let Some(attribute) = mentioned(&field.attrs, &UNUSABLE)? {
            return Ok(Self {
                save: None,
                prepare: Some(quote!(flow.unrestorable(#name, #attribute);)),
                rebuild: quote!(flow.unrestorable::<#ty>(#name, #attribute)),
                check: quote!(check.unrestorable(#name, #attribute);),
            });
        }
        let aliases = aliases(&field.attrs)?;
        let is_optional = all_have_defaults || mentioned(&field.attrs, &["default"])?.is_some();
        // Nothing can be read into a reference, and whether a type that contains one can be deserialised for all lifetimes
        // is nothing that method resolution takes into account.
        let reader = if mentions_reference(quote!(#ty)) {
            quote!(::core::option::Option::None)
        } else {
            quote!(#of_type.reader())
        };
        let own = quote! {
            ::flowright::derive::OwnField { name: #name, aliases: &[#(#aliases),*], is_optional: #is_optional }
        };
        Ok(Self {
            save: Some(quote!(fields.write(#name, #of_type.writer(), &self.#ident)?;)),
            prepare: Some(quote!(flow.own::<#ty>(#own, #reader, |flow| &mut flow.#ident);)),
            rebuild: quote!(flow.own::<#ty>(#own, #reader, #default)),
            check: quote! {
                #role
                let reader: ::core::option::Option<::flowright::derive::ReadField<#ty>> = #reader;
                check.own::<#ty, _>(#name, #of_type.writer(), reader.is_some());
            },
        })
    }
}

/// Returns true if a reference occurs anywhere in the tokens of a type.
fn mentions_reference(tokens: proc_macro2::TokenStream) -> bool {
    tokens.into_iter().any(|token| match token {
        proc_macro2::TokenTree::Punct(punct) => punct.as_char() == '&',
        proc_macro2::TokenTree::Group(group) => mentions_reference(group.stream()),
        _ => false,
    })
}

/// Returns the names by serde's `alias`.
fn aliases(attributes: &[Attribute]) -> syn::Result<Vec<String>> {
    let mut names = Vec::new();
    each_setting(attributes, |path, value| {
        if path.is_ident("alias") {
            names.extend(value.and_then(text_of));
        }
    })?;
    Ok(names)
}

/// Returns the function that serde's `default = "…"` names.
fn default_path(attributes: &[Attribute]) -> syn::Result<Option<syn::ExprPath>> {
    let mut text = None;
    each_setting(attributes, |path, value| {
        if path.is_ident("default")
            && let Some(Expr::Lit(ExprLit { lit: Lit::Str(path), .. })) = value
        {
            text = Some(path.clone());
        }
    })?;
    text.map(|text| text.parse()).transpose()
}

/// Calls `visit` with each of serde's settings among the attributes, and with its value if it has one.
fn each_setting(
    attributes: &[Attribute],
    mut visit: impl FnMut(&syn::Path, Option<&Expr>),
) -> syn::Result<()> {
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("serde")) {
        attribute.parse_nested_meta(|meta| {
            if meta.input.peek(syn::token::Paren) {
                visit(&meta.path, None);
                return meta.parse_nested_meta(|meta| {
                    if meta.input.peek(syn::Token![=]) {
                        let _: Expr = meta.value()?.parse()?;
                    }
                    Ok(())
                });
            }
            let value: Option<Expr> =
                if meta.input.peek(syn::Token![=]) { Some(meta.value()?.parse()?) } else { None };
            visit(&meta.path, value.as_ref());
            Ok(())
        })?;
    }
    Ok(())
}

/// Returns the first of serde's attributes `names` that is among the attributes.
fn mentioned(attributes: &[Attribute], names: &[&'static str]) -> syn::Result<Option<&'static str>> {
    let mut found = None;
    each_setting(attributes, |path, _| {
        found = found.or(names.iter().find(|name| path.is_ident(name)).copied());
    })?;
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

/// Returns true if the name of a handle to a child occurs anywhere in the tokens.
fn mentions_children(tokens: proc_macro2::TokenStream) -> bool {
    tokens.into_iter().any(|token| match token {
        proc_macro2::TokenTree::Ident(ident) => HANDLES.iter().any(|handle| ident == handle),
        proc_macro2::TokenTree::Group(group) => mentions_children(group.stream()),
        _ => false,
    })
}

/// Handles to children, by their names, since a macro has no type information.
const HANDLES: [&str; 3] = ["WorkRef", "FlowRef", "ServiceRef"];

/// Returns true for a handle to a child, or a collection of them.
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
    if HANDLES.iter().any(|handle| last.ident == handle) {
        return true;
    }
    if !["Option", "Vec", "HashMap", "BTreeMap"].iter().any(|collection| last.ident == collection) {
        return false;
    }
    let PathArguments::AngleBracketed(arguments) = &last.arguments else { return false };
    arguments.args.iter().any(|argument| matches!(argument, GenericArgument::Type(ty) if holds_children(ty)))
}
