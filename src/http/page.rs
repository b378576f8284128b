//! The page, which is built into the program.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse};

use super::problem::Problem;

/// What the page may load: its own scripts and styles, and its own server's answers.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! assets {
    ($($name:literal: $content_type:expr),* $(,)?) => {
        &[$(($name, $content_type, include_str!(concat!("view/", $name)))),*]
    };
}

/// Every file of `view/`.
const ASSETS: &[(&str, &str, &str)] = assets![
    "view.css": CSS,
    "view.html": HTML,
    "view.js": SCRIPT,
];

pub(super) async fn view(request: HttpRequest) -> HttpResponse {
    asset(&request, "view.html")
}

pub(super) async fn file(request: HttpRequest) -> HttpResponse {
    let name = request.path().strip_prefix("/view/").unwrap_or_default();
    asset(&request, name)
}

/// A part of the page. It is never cached: another program may be served at this address tomorrow.
fn asset(request: &HttpRequest, name: &str) -> HttpResponse {
    let Some((_, content_type, body)) = ASSETS.iter().find(|(known, ..)| *known == name) else {
        return Problem::not_found("the page has no such part").at(request).respond();
    };
    HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, *content_type))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((header::CONTENT_SECURITY_POLICY, POLICY))
        .body(*body)
}

pub(super) async fn home() -> HttpResponse {
    HttpResponse::SeeOther().insert_header((header::LOCATION, "/view")).finish()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_file_of_the_page_is_served() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/http/view");
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        let files: BTreeSet<_> = files.map(|name| name.into_string().unwrap()).collect();
        let served: BTreeSet<_> = ASSETS.iter().map(|(name, ..)| (*name).to_owned()).collect();
        assert_eq!(files, served);
    }

    #[test]
    fn the_page_loads_nothing_that_its_policy_forbids() {
        assert!(POLICY.starts_with("default-src 'none'") && !POLICY.contains("unsafe"), "{POLICY}");
        for (name, content_type, text) in ASSETS {
            let forbidden: &[&str] = match *content_type {
                HTML => &["<style", "<script>", " style=", " on", "http:", "https:"],
                SCRIPT => &["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write"],
                _ => &["http:", "https:", "@import"],
            };
            for part in forbidden {
                assert!(!text.contains(part), "{part} in {name}");
            }
        }
    }
}
