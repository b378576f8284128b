//! `certs`: makes a CA and certificates for deployments without a PKI.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::error::{UsageError, wrong_usage};
use crate::app::AppError;
use crate::entry::{report, say};
use crate::machine::machine_name;
use crate::transport::{Certificates, make_certificates};

/// The certificate of this name is shown with the command of the head, all others with that of a node.
const HEAD: &str = "head";
const NODE: &str = "node";

/// The arguments of `certs`.
#[derive(Debug, clap::Args)]
pub(super) struct CertsArgs {
    /// The directory of the certificates and of the CA, which is made unless it exists
    #[arg(long, value_name = "DIR", default_value = "certs")]
    dir: PathBuf,

    /// The names to make certificates for; each gets NAME.pem and NAME-key.pem
    #[arg(value_name = "NAME", default_values = [HEAD, NODE])]
    names: Vec<String>,
}

impl CertsArgs {
    fn names(&self) -> Result<&[String], UsageError> {
        for (at, name) in self.names.iter().enumerate() {
            let known = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            let begins = name.starts_with(|c: char| c.is_ascii_alphanumeric());
            if !begins
                || !name.chars().all(known)
                || name.len() > 64
                || name == "ca"
                || name.ends_with("-key")
            {
                return Err(UsageError::CertName(name.clone()));
            }
            if self.names[..at].contains(name) {
                return Err(UsageError::CertNameTwice(name.clone()));
            }
        }
        Ok(&self.names)
    }
}

pub(super) fn make(args: &CertsArgs) -> ExitCode {
    let names = match args.names() {
        Ok(names) => names,
        Err(error) => return wrong_usage(&error),
    };
    match make_certificates(&args.dir, names) {
        Ok(certificates) => {
            show(&args.dir, &certificates);
            ExitCode::SUCCESS
        }
        Err(error) => {
            report(&AppError::from(error));
            ExitCode::FAILURE
        }
    }
}

fn show(directory: &Path, certificates: &Certificates) {
    let Certificates { ca, ca_is_new, made, until } = certificates;
    let ca_key = directory.join("ca-key.pem");
    match ca_is_new {
        true => say(&format!(
            "Made a CA: {} and {}. Keep the key secret, and only on the machine that makes certificates: whoever \
             has it can let processes in.",
            ca.display(),
            ca_key.display()
        )),
        false => say(&format!("Using the existing CA: {}", ca.display())),
    }
    for made in made {
        say(&format!("Made {} and {}, valid until {until}.", made.cert.display(), made.key.display()));
    }
    let program = std::env::args_os().next().unwrap_or_default();
    let program = quoted(&program.to_string_lossy());
    for made in made {
        let files = [("cert", &made.cert), ("key", &made.key), ("ca", ca)];
        let files: String = files
            .map(|(flag, path)| format!(" --tls-{flag} {}", quoted(&path.display().to_string())))
            .concat();
        say("");
        if made.name == HEAD {
            say("The head of the App:");
            say(&format!("  {program} --listen 0.0.0.0:7502{files}"));
            continue;
        }
        let name = match made.name.as_str() {
            NODE => String::new(),
            name => format!(" --name {name}"),
        };
        say(&format!(
            "On another machine, with copies of {}, {} and ca.pem:",
            file_name(&made.cert),
            file_name(&made.key)
        ));
        say(&format!("  {program} node --join {}:7502{name}{files}", machine_name()));
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().display().to_string()
}

/// Quotes a word for a POSIX shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}
