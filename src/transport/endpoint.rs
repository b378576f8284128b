//! Addresses of processes.

use std::convert::Infallible;
use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The address of a process: `host:port`, or `unix:/path` for a Unix socket.
///
/// ```
/// # use flowright::Endpoint;
/// let endpoint: Endpoint = "machine-0:7502".parse().unwrap();
/// assert_eq!(endpoint, Endpoint::Tcp("machine-0:7502".to_owned()));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Endpoint {
    /// A host, by name or number, and a port.
    Tcp(String),
    /// The path of a Unix socket on this machine.
    Unix(PathBuf),
}

impl Endpoint {
    /// Returns what makes an address invalid, if it is. A valid one has a host and a port from 1 on; the host is an
    /// IPv6 address in brackets, an IPv4 address or a name.
    pub(crate) fn fault(&self) -> Option<&'static str> {
        let Self::Tcp(address) = self else { return None };
        if address.contains("://") {
            return Some("that is a URL; give only its HOST:PORT");
        }
        let Some((host, port)) = address.rsplit_once(':') else { return Some("it has no port") };
        let is_name = |host: &str| host.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '.'));
        match host.strip_prefix('[').map(|host| host.strip_suffix(']')) {
            Some(Some(host)) if host.parse::<Ipv6Addr>().is_ok() => {}
            Some(_) => return Some("the text in brackets is not an IPv6 address"),
            None if host.is_empty() => return Some("it has no host"),
            None if host.contains(':') => return Some("an IPv6 address must be in brackets"),
            None if !is_name(host) => return Some("that is not a host name"),
            None => {}
        }
        match port.parse::<u16>() {
            Ok(1..) if port.bytes().all(|digit| digit.is_ascii_digit()) => None,
            _ if port.is_empty() => Some("it has no port"),
            _ => Some("a port is a number from 1 to 65535"),
        }
    }
}

/// An address that is announced to others in place of the one at which a process listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Advertised {
    host: String,
    port: Option<u16>,
}

impl Advertised {
    /// Parses a host, and a port if it differs from the one that the process listens at.
    ///
    /// # Errors
    /// The reason why the address is invalid.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let fault = |text: &str| Endpoint::Tcp(text.to_owned()).fault();
        // The last colon may be part of an IPv6 address.
        let (host, port) = match text.rsplit_once(':').filter(|(_, port)| !port.contains(']')) {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        };
        let complete = if port.is_some() { text.to_owned() } else { format!("{text}:1") };
        if let Some(fault) = fault(&complete) {
            return Err(fault);
        }
        let port = port.and_then(|port| port.parse().ok());
        let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        if address.is_ok_and(|address| address.is_unspecified()) {
            return Err("that is the unspecified address, which others cannot dial");
        }
        Ok(Self { host: host.to_owned(), port })
    }

    pub(crate) fn has_port(&self) -> bool {
        self.port.is_some()
    }

    /// Returns the announced address of a listener at `endpoint`.
    pub(crate) fn of(&self, endpoint: &Endpoint) -> Endpoint {
        let Endpoint::Tcp(address) = endpoint else { return endpoint.clone() };
        let Self { host, port } = self;
        match (port, address.rsplit_once(':')) {
            (Some(port), _) => Endpoint::Tcp(format!("{host}:{port}")),
            (None, Some((_, port))) => Endpoint::Tcp(format!("{host}:{port}")),
            (None, None) => endpoint.clone(),
        }
    }
}

impl FromStr for Endpoint {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text.strip_prefix("unix:") {
            Some(path) => Self::Unix(path.into()),
            None => Self::Tcp(text.to_owned()),
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Serialize for Endpoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(text.parse().unwrap_or_else(|never: Infallible| match never {}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> Option<&'static str> {
        text.parse::<Endpoint>().unwrap_or_else(|never| match never {}).fault()
    }

    /// An announced address has a host, and the port at which the process listens unless it has its own.
    #[test]
    fn advertised_addresses_are_checked_and_completed() {
        let of = |text: &str, listening: &str| {
            Advertised::parse(text).map(|told| told.of(&Endpoint::Tcp(listening.to_owned())).to_string())
        };
        assert_eq!(of("gate.example.org:8000", "10.0.0.1:7502").as_deref(), Ok("gate.example.org:8000"));
        assert_eq!(of("gate.example.org", "10.0.0.1:7502").as_deref(), Ok("gate.example.org:7502"));
        assert_eq!(of("[2001:db8::1]", "[::]:7502").as_deref(), Ok("[2001:db8::1]:7502"));
        assert_eq!(of("192.0.2.1:80", "0.0.0.0:7502").as_deref(), Ok("192.0.2.1:80"));
        for bad in [
            "",
            ":80",
            "gate:0",
            "gate:99999",
            "http://gate",
            "2001:db8::1",
            "0.0.0.0",
            "[::]:80",
            "a b",
            "gate:",
        ] {
            assert!(Advertised::parse(bad).is_err(), "{bad:?}");
        }
    }

    /// Valid endpoints have no fault, and invalid ones have one.
    #[test]
    fn endpoint_faults_are_found() {
        for good in ["localhost:7502", "10.0.0.1:1", "[::1]:65535", "my_host-1.example.org:80", "unix:/tmp/x"]
        {
            assert_eq!(fault(good), None, "{good}");
        }
        for bad in [
            "",
            "nowhere",
            "localhost:",
            ":7502",
            "http://host:7502",
            "host:7502/path",
            "host:0",
            "host:65536",
            "host:+80",
            "host:port",
            "::1:7502",
            "[::1]",
            "[::1:7502",
            "[host]:7502",
            "a host:1",
            "user@host:1",
            "host\n:1",
        ] {
            assert!(fault(bad).is_some(), "{bad:?}");
        }
    }
}
