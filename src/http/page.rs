//! The page, whose files are embedded in the program.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse};

use super::problem::Problem;

/// Content security policy of the page: its own scripts, styles and icon, and requests to its own server only.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const PICTURE: &str = "image/svg+xml";
const SCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! assets {
    ($($name:literal: $content_type:expr),* $(,)?) => {
        &[$(($name, $content_type, include_str!(concat!("view/", $name)))),*]
    };
}

/// All files of `view/`: name, content type, text.
const ASSETS: &[(&str, &str, &str)] = assets![
    "actions.js": SCRIPT,
    "api.js": SCRIPT,
    "changes.js": SCRIPT,
    "dom.js": SCRIPT,
    "fleet.js": SCRIPT,
    "format.js": SCRIPT,
    "graph.js": SCRIPT,
    "icon.svg": PICTURE,
    "inspector.js": SCRIPT,
    "log.js": SCRIPT,
    "main.js": SCRIPT,
    "nodes.js": SCRIPT,
    "panel.js": SCRIPT,
    "parts.css": CSS,
    "past.js": SCRIPT,
    "patch.js": SCRIPT,
    "payloads.js": SCRIPT,
    "plots.js": SCRIPT,
    "runs.js": SCRIPT,
    "service.js": SCRIPT,
    "state.js": SCRIPT,
    "store.js": SCRIPT,
    "stream.js": SCRIPT,
    "timeline.js": SCRIPT,
    "topics.js": SCRIPT,
    "tree.js": SCRIPT,
    "view.css": CSS,
    "view.html": HTML,
    "virtual.js": SCRIPT,
    "why.js": SCRIPT,
];

pub(super) async fn view(request: HttpRequest) -> HttpResponse {
    asset(&request, "view.html")
}

pub(super) async fn file(request: HttpRequest) -> HttpResponse {
    let name = request.path().strip_prefix("/view/").unwrap_or_default();
    asset(&request, name)
}

/// Responds with a file of the page. Clients must not cache it: another program may be served at this address later.
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
    // A relative location, because a reverse proxy may serve the App below a path.
    HttpResponse::SeeOther().insert_header((header::LOCATION, "view")).finish()
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
                PICTURE => &["<script", "href", "https:"],
                _ => &["http:", "https:", "@import"],
            };
            for part in forbidden {
                assert!(!text.contains(part), "{part} in {name}");
            }
        }
    }

    #[test]
    fn what_the_page_names_is_there() {
        let served: BTreeSet<_> = ASSETS.iter().map(|(name, ..)| *name).collect();
        for (name, _, text) in ASSETS {
            let linked = text.split('"').filter_map(|part| part.strip_prefix("view/"));
            let imported = text.lines().filter(|line| line.starts_with("import "));
            let imported =
                imported.filter_map(|line| Some(line.split_once("\"./")?.1.trim_end_matches("\";")));
            for other in linked.chain(imported) {
                assert!(served.contains(other), "{other}, of which {name} speaks");
            }
        }
    }

    /// A reverse proxy may serve the page below a path, so the page requests nothing by an absolute path.
    #[test]
    fn the_page_asks_for_nothing_at_the_root() {
        for (name, _, text) in ASSETS {
            for part in ["\"/api", "`/api", "\"/healthz", "\"/view", "href=\"/", "src=\"/"] {
                assert!(!text.contains(part), "{part} in {name}");
            }
        }
    }

    #[test]
    fn the_page_is_small() {
        let bytes: usize = ASSETS.iter().map(|(.., text)| text.len()).sum();
        assert!(bytes < 150_000, "{bytes} bytes");
    }
}
