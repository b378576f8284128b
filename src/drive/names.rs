//! Validation of the names of drives and files. Pure: no I/O.

/// Checks the name of a file or, if it may be empty, of a directory. The error says what is wrong with the name.
pub(crate) fn check(name: &str, may_be_empty: bool) -> Result<(), &'static str> {
    if name.is_empty() {
        return if may_be_empty { Ok(()) } else { Err("it is empty") };
    }
    if name.starts_with('/') {
        return Err("it is absolute");
    }
    if name.len() > 900 {
        return Err("it is longer than 900 bytes");
    }
    name.split('/').try_for_each(|part| match part {
        "" => Err("it has two slashes in a row, or one at its end"),
        "." | ".." => Err("it has a part that is `.` or `..`"),
        part if part.len() > 200 => Err("a part of it is longer than 200 bytes"),
        part if part.chars().any(char::is_control) => Err("it has a control character"),
        // Reserved for files while they are being written.
        part if part.starts_with(STAGING) => {
            Err("a part of it begins with `.flowright-put`, which is reserved for incomplete files")
        }
        part if is_numbered(part) => {
            Err("a part of it ends with `#` and a number, which is reserved for incomplete files")
        }
        _ => Ok(()),
    })
}

/// Directory of files that are still being written.
pub(super) const STAGING: &str = ".flowright-put";

fn is_numbered(part: &str) -> bool {
    part.rsplit_once('#')
        .is_some_and(|(_, number)| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Checks the name of a drive. The error says what is wrong with the name, and what to write instead.
pub(super) fn check_drive(name: &str) -> Result<(), String> {
    if let Some((scheme, rest)) = name.split_once("://") {
        let rest = rest.trim_matches('/');
        return Err(match scheme {
            "lit" => format!("a drive at the head has a name alone; write `Drive::new(\"{rest}\")`"),
            _ => format!("that is a URL; write `Drive::from_url(\"{name}\")`"),
        });
    }
    if name.contains('/') {
        return Err("a drive is one folder, and has a name without `/`; names of files in it may have some"
            .to_owned());
    }
    if name.starts_with('.') {
        return Err("its name begins with a dot".to_owned());
    }
    check(name, false).map_err(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for good in ["a", "a/b.txt", "ä ö", "a#b", "#", "...", "a/.hidden", "a%2fb", "*?"] {
            assert_eq!(check(good, false), Ok(()), "{good}");
        }
        for bad in [
            "",
            "/a",
            "a/",
            "a//b",
            ".",
            "..",
            "a/../b",
            "a/./b",
            "a#12",
            "x#1/y",
            "a\nb",
            "\0",
            ".flowright-put/x",
        ] {
            assert!(check(bad, false).is_err(), "{bad}");
        }
        assert_eq!(check("", true), Ok(()));
        assert!(check(&"a".repeat(201), false).is_err());
    }

    #[test]
    fn drives_have_one_name() {
        for good in ["reports", "my drive", "a#b"] {
            assert_eq!(check_drive(good), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("", "empty"),
            ("a/b", "without `/`"),
            ("..", "dot"),
            (".hidden", "dot"),
            ("lit://reports", "Drive::new(\"reports\")"),
            ("s3://bucket", "Drive::from_url"),
        ] {
            let error = check_drive(bad).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }
}
