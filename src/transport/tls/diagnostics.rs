//! Descriptions of TLS failures: what is wrong with the peer, or with this process in the peer's view, and what to do.

use std::io;

use tokio_rustls::rustls::pki_types::UnixTime;
use tokio_rustls::rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

use super::NAME;
use crate::transport::error::TransportError;

const ONE_CA: &str = "give both certificates of the same CA with --tls-cert, --tls-key and --tls-ca";

/// Limits on the number and the length of the names that are quoted from a certificate, whose content the peer decides.
const NAMES: usize = 3;
const NAME_LENGTH: usize = 64;

/// Returns the error for a failed handshake.
pub(in crate::transport) fn explain(peer: &str, error: io::Error) -> TransportError {
    if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        return TransportError::Refused { peer: peer.to_owned(), why: refusal(error) };
    }
    TransportError::handshake_broken(peer, error)
}

/// Returns the objection to a dialer's certificate, which the dialer is sent.
pub(super) fn objection(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(fault) => {
            format!("the certificate of the dialer {}", self::fault(fault, "the CA of the listener"))
        }
        error => format!("the certificate of the dialer cannot be used: {error}"),
    }
}

fn refusal(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(fault) => {
            format!("its certificate {}", self::fault(fault, "the CA that is given here with --tls-ca"))
        }
        Error::NoCertificatesPresented => format!("it has no certificate: {ONE_CA}"),
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
        ) => {
            format!("it does not speak TLS: {ONE_CA}, or neither; or something else listens there")
        }
        Error::PeerIncompatible(_) => format!("TLS 1.3 is needed, and it does not speak that: {error}"),
        Error::AlertReceived(alert) => opinion(*alert),
        error => format!("it violates the TLS protocol: {error}"),
    }
}

/// Describes the peer's objection to this process: an alert is just a number.
fn opinion(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::UnknownCA => {
            format!("it does not know the CA that signed the certificate of this process: {ONE_CA}")
        }
        AlertDescription::CertificateExpired => "by its clock the certificate of this process has expired, or is not \
            valid yet: make another with the command `certs`, start this process anew with it, and look at both clocks"
            .to_owned(),
        AlertDescription::CertificateRequired => format!("it asked for a certificate and got none: {ONE_CA}"),
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateUnknown
        | AlertDescription::DecryptError
        | AlertDescription::AccessDenied => {
            format!("it does not accept the certificate of this process ({alert:?}): {ONE_CA}")
        }
        AlertDescription::ProtocolVersion => {
            format!("it does not speak TLS, or not version 1.3: {ONE_CA}, or neither")
        }
        alert => format!("it ended TLS with the alert {alert:?}"),
    }
}

/// Describes a problem with a certificate, as the predicate of a sentence about the certificate.
pub(super) fn fault(error: &CertificateError, ca: &str) -> String {
    let renew = "make another with the command `certs` and start its process anew with that; if the time here is wrong, \
        set the clock";
    match error {
        CertificateError::ExpiredContext { time, not_after } => {
            format!("expired at {}, and it is {} here: {renew}", date(*not_after), date(*time))
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            format!("is valid from {} on, and it is {} here: set the clock", date(*not_before), date(*time))
        }
        CertificateError::Expired => format!("has expired: {renew}"),
        CertificateError::UnknownIssuer => format!("was not signed by {ca}: {ONE_CA}"),
        CertificateError::BadSignature => {
            format!("was not signed by {ca}, but by another of the same name: {ONE_CA}")
        }
        CertificateError::NotValidForNameContext { presented, .. } => {
            let name = |name: &String| name.chars().take(NAME_LENGTH).collect::<String>();
            let mut names: Vec<_> = presented.iter().take(NAMES).map(name).collect();
            if presented.len() > NAMES {
                names.push("others".to_owned());
            }
            let names = match &names[..] {
                [] => "none".to_owned(),
                names => names.join(", "),
            };
            format!("is not for the DNS name `{NAME}`, as those of all processes must be; its names: {names}")
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "names uses, and not all that are needed: both `serverAuth` and `clientAuth`".to_owned()
        }
        error if error.to_string().contains("CaUsedAsEndEntity") => {
            "is that of a CA: a process needs one of its own, signed by that CA".to_owned()
        }
        error => format!("cannot be used: {error}"),
    }
}

pub(super) fn date(time: UnixTime) -> String {
    format(time, "%Y-%m-%d %H:%M UTC")
}

pub(super) fn day(time: UnixTime) -> String {
    format(time, "%Y-%m-%d")
}

fn format(time: UnixTime, format: &str) -> String {
    let time = i64::try_from(time.as_secs()).ok().and_then(|secs| chrono::DateTime::from_timestamp(secs, 0));
    match time {
        Some(time) => time.format(format).to_string(),
        None => "a time out of range".to_owned(),
    }
}
