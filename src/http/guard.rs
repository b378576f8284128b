//! Access control: the `Host`, `Origin` and token checks of every request.
//!
//! Every process on the machine reaches a server on the loopback address, among them every page in every browser. Pages
//! of other origins are refused by their `Origin`, and pages that use DNS rebinding by their `Host`. A server on any
//! other address requires a token.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::{Error, HttpResponse, web};

use super::problem::Problem;
use crate::app::{AppError, Config, Control};
use crate::secret_file::read_secret;

/// The minimum length of a token, in bytes.
const SHORTEST: usize = 16;

pub(super) struct Guard {
    /// True when the server listens on a loopback address, so that only this machine reaches it.
    loopback: bool,
    /// The hash of the token. Comparing hashes takes the same time wherever the texts differ.
    token: Option<blake3::Hash>,
    origins: Vec<String>,
    /// Names accepted beside those of the loopback address, such as the name that a reverse proxy forwards.
    hosts: Vec<String>,
}

impl Guard {
    /// Creates the guard for a server at `address`.
    ///
    /// # Errors
    /// [`AppError`] when the address is not loopback and no token is configured, when the token cannot be read or is
    /// too short, or when an allowed origin or host is malformed.
    pub(super) fn new(address: SocketAddr, config: &Config) -> Result<Self, AppError> {
        let token = config.http_token_file.as_deref().map(read_token).transpose()?;
        let loopback = address.ip().is_loopback();
        if !loopback && token.is_none() {
            return Err(AppError::NoHttpToken { address: address.to_string() });
        }
        for origin in &config.allow_origin {
            if !is_origin(origin) {
                return Err(AppError::Http(format!(
                    "--allow-origin {origin:?}: write it as a browser sends it, SCHEME://HOST or SCHEME://HOST:PORT, \
                     such as https://example.org"
                )));
            }
        }
        for host in &config.allow_host {
            if !is_host(host) {
                return Err(AppError::Http(format!(
                    "--allow-host {host:?}: write the name or address alone, without a port, such as app.example.org"
                )));
            }
        }
        let lower = |texts: &[String]| texts.iter().map(|text| text.to_ascii_lowercase()).collect();
        let (origins, hosts) = (lower(&config.allow_origin), lower(&config.allow_host));
        Ok(Self { loopback, token: token.map(|token| blake3::hash(token.as_bytes())), origins, hosts })
    }

    /// Returns true when `host` is an accepted name of the server. Servers beyond the loopback address accept any name.
    fn knows_host(&self, host: &str) -> bool {
        if !self.loopback {
            return true;
        }
        let name = host.rsplit_once(':').map_or(host, |(name, port)| {
            if port.bytes().all(|byte| byte.is_ascii_digit()) { name } else { host }
        });
        let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        name.eq_ignore_ascii_case("localhost")
            || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
            || self.hosts.iter().any(|host| host.eq_ignore_ascii_case(name))
    }

    fn allows(&self, origin: &str) -> bool {
        self.origins.contains(&origin.to_ascii_lowercase())
    }

    fn check(&self, request: &ServiceRequest) -> Result<(), Problem> {
        let headers = request.headers();
        let host = match single(headers, &header::HOST)? {
            Some(host) => host,
            None => request.uri().authority().map(|authority| authority.as_str()).unwrap_or_default(),
        };
        if !self.knows_host(host) {
            return Err(Problem::new(
                StatusCode::MISDIRECTED_REQUEST,
                "this App is served on the loopback address only, and the request names another host; --allow-host accepts \
                 that name, such as the one that a reverse proxy forwards",
            ));
        }
        let is_public = is_public(request.method(), request.path());
        match single(headers, &header::ORIGIN)? {
            Some(origin) if self.allows(origin) || is_same(origin, host) => {}
            Some(_) => return Err(foreign()),
            // A request for a picture or a script from a page of another origin has no `Origin`. A link from such a
            // page to ours has none either and stays allowed.
            None if headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site") && !is_public => {
                return Err(foreign());
            }
            None => {}
        }
        match &self.token {
            Some(token) if !is_public => {
                let given = single(headers, &header::AUTHORIZATION)?;
                let given = given.and_then(|text| {
                    let (scheme, token) = text.split_once(' ')?;
                    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
                });
                if given.is_some_and(|given| blake3::hash(given.as_bytes()) == *token) {
                    return Ok(());
                }
                let detail = "this server requires a token: send it as `Authorization: Bearer TOKEN`";
                Err(Problem::new(StatusCode::UNAUTHORIZED, detail)
                    .with(header::WWW_AUTHENTICATE, "Bearer realm=\"flowright\""))
            }
            _ => Ok(()),
        }
    }
}

fn foreign() -> Problem {
    Problem::new(
        StatusCode::FORBIDDEN,
        "the request comes from a page of another origin; --allow-origin lets pages of an origin use the API",
    )
}

/// Returns true for the routes that need no token: liveness, and the files of the page, which asks for the token
/// itself.
fn is_public(method: &Method, path: &str) -> bool {
    (method == Method::GET || method == Method::HEAD)
        && (matches!(path, "/" | "/healthz" | "/view") || path.starts_with("/view/"))
}

/// Returns the value of a header. Repeated headers are refused, since two parties may each pick a different one.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let mut all = headers.get_all(name);
    let first = all.next();
    if all.next().is_some() {
        return Err(Problem::bad_request(format!("there are two `{name}` headers")));
    }
    match first.map(HeaderValue::to_str) {
        None => Ok(None),
        Some(Ok(text)) => Ok(Some(text)),
        Some(Err(_)) => Err(Problem::bad_request(format!("the `{name}` header is not valid text"))),
    }
}

fn is_same(origin: &str, host: &str) -> bool {
    let rest = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    rest.is_some_and(|origin| !origin.is_empty() && origin.eq_ignore_ascii_case(host))
}

fn is_host(text: &str) -> bool {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    text.parse::<IpAddr>().is_ok() || (!text.is_empty() && text.bytes().all(is_name))
}

fn is_origin(text: &str) -> bool {
    let host = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    host.is_some_and(|host| {
        !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_graphic() && !b"/?#@\\\"".contains(&byte))
    })
}

fn read_token(file: &Path) -> Result<String, AppError> {
    let wrong =
        |why: String| AppError::Http(format!("the HTTP token in {} cannot be used: {why}", file.display()));
    let token = read_secret(file).map_err(wrong)?.trim().to_owned();
    if token.len() < SHORTEST || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(wrong(format!(
            "it has to be of at least {SHORTEST} visible ASCII characters without spaces; `head -c 32 /dev/urandom | \
             base64` makes a good one"
        )));
    }
    Ok(token)
}

/// Refuses requests that would wait for a Flow that does not return.
fn answers(request: &ServiceRequest) -> Result<(), Problem> {
    let path = request.path();
    let needs_app = matches!(path, "/readyz" | "/metrics") || path.starts_with("/api/v1/");
    // Routes that are answered without the App's thread.
    if !needs_app
        || matches!(path, "/api/v1/logs" | "/api/v1/openapi.json" | "/api/v1/app" | "/api/v1/app/stop")
    {
        return Ok(());
    }
    match request.app_data::<web::Data<Control>>().and_then(|control| Problem::stuck(control)) {
        Some(problem) => Err(problem),
        None => Ok(()),
    }
}

/// Middleware that refuses requests without access and answers CORS preflight requests.
pub(super) async fn guard<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let Some(guard) = request.app_data::<web::Data<Guard>>().cloned() else {
        return Ok(next.call(request).await?.map_into_left_body());
    };
    let origin = request.headers().get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
    let allowed = origin.filter(|origin| guard.allows(origin)).map(str::to_owned);
    let is_preflight = request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if let (true, Some(_)) = (is_preflight, &allowed) {
        let answer = HttpResponse::NoContent()
            .insert_header((header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST"))
            .insert_header((
                header::ACCESS_CONTROL_ALLOW_HEADERS,
                "authorization, content-type, if-none-match, last-event-id",
            ))
            .insert_header((header::ACCESS_CONTROL_MAX_AGE, "600"))
            .finish();
        request.into_response(answer).map_into_right_body()
    } else {
        match guard.check(&request).and_then(|()| answers(&request)) {
            Ok(()) => next.call(request).await?.map_into_left_body(),
            Err(problem) => {
                let answer = problem.at(request.request()).respond();
                request.into_response(answer).map_into_right_body()
            }
        }
    };
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    );
    if !headers.contains_key(header::CONTENT_SECURITY_POLICY) {
        let nothing = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
        headers.insert(header::CONTENT_SECURITY_POLICY, nothing);
    }
    if !guard.origins.is_empty() {
        headers.append(header::VARY, HeaderValue::from_static("origin"));
    }
    if let Some(Ok(origin)) = allowed.map(|origin| HeaderValue::from_str(&origin)) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("etag"));
        headers.insert(
            HeaderName::from_static("cross-origin-resource-policy"),
            HeaderValue::from_static("cross-origin"),
        );
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback() -> Guard {
        Guard::new("127.0.0.1:7501".parse().unwrap(), &Config::default()).unwrap()
    }

    #[test]
    fn a_loopback_server_answers_to_loopback_names_only() {
        let guard = loopback();
        for good in ["127.0.0.1:7501", "localhost:7501", "LOCALHOST", "[::1]:7501", "127.0.0.1"] {
            assert!(guard.knows_host(good), "{good}");
        }
        for bad in
            ["evil.example:7501", "127.0.0.1.evil.example", "", "localhost.evil.example", "[::1", "::2"]
        {
            assert!(!guard.knows_host(bad), "{bad}");
        }
    }

    /// A name that a reverse proxy forwards is accepted with any port; malformed names are refused.
    #[test]
    fn allowed_hosts_are_known() {
        let with = |host: &str| {
            let config = Config { allow_host: vec![host.to_owned()], ..Config::default() };
            Guard::new("127.0.0.1:7501".parse().unwrap(), &config)
        };
        let guard = with("App.example.org").unwrap();
        assert!(guard.knows_host("app.example.org") && guard.knows_host("APP.example.org:443"));
        assert!(guard.knows_host("localhost:7501"));
        assert!(!guard.knows_host("example.org") && !guard.knows_host("x.app.example.org"));
        for bad in ["", "app.example.org:443", "https://app.example.org", "*", "a b"] {
            let error = with(bad).err().expect(bad).to_string();
            assert!(error.contains("--allow-host") && error.contains("app.example.org"), "{error}");
        }
    }

    #[test]
    fn an_origin_is_the_same_when_it_is_the_host_that_was_asked() {
        assert!(is_same("http://127.0.0.1:7501", "127.0.0.1:7501"));
        assert!(is_same("http://localhost:7501", "LOCALHOST:7501"));
        for other in ["null", "http://localhost:7502", "http://", "https://evil.example", "file://", ""] {
            assert!(!is_same(other, "localhost:7501"), "{other}");
        }
        assert!(!is_same("http://", ""));
    }

    #[test]
    fn beyond_the_machine_there_is_no_server_without_a_token() {
        let everywhere = "0.0.0.0:7501".parse().unwrap();
        let error = Guard::new(everywhere, &Config::default()).err().unwrap().to_string();
        assert!(error.contains("--http-token-file") && error.contains("0.0.0.0:7501"), "{error}");
    }

    #[test]
    fn origins_are_written_as_browsers_send_them() {
        for good in ["https://example.org", "http://localhost:3000", "http://[::1]:80"] {
            assert!(is_origin(good), "{good}");
        }
        for bad in ["*", "example.org", "https://example.org/", "https://", "https://a b", "null"] {
            assert!(!is_origin(bad), "{bad}");
        }
    }
}
