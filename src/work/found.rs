//! The head's knowledge of a path, and the error of a Work that was not found.

use serde::{Deserialize, Serialize};

use crate::id::ActorPath;

/// Number of similar paths in an error.
const FEW: usize = 3;

/// Number of paths that are compared with one that does not exist.
const COMPARED: usize = 10_000;

/// Error returned when a path does not lead to a Work of the wanted type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FindError {
    /// There is nothing at the path: no Flow has such a child now.
    #[error("there is no work or service `{path}` in the App{}", did_you_mean(similar))]
    NotFound {
        /// The path.
        path: String,
        /// Up to three paths of Works and services that are similar, the most similar first.
        similar: Vec<String>,
    },
    /// The Work or service at the path is of another type.
    #[error("work `{path}` is a `{found}` and not a `{wanted}`")]
    OtherType {
        /// The path.
        path: String,
        /// The type of the Work, as text.
        found: String,
        /// The type that was asked for, as text.
        wanted: &'static str,
    },
    /// The path is that of a Flow, which takes no messages.
    #[error("`{path}` is the flow `{flow}`, which takes no messages: find one of the works below it")]
    IsFlow {
        /// The path; `root` for the root Flow.
        path: String,
        /// The type of the Flow, as text.
        flow: String,
    },
    /// The head cannot be asked, or the App has ended.
    #[error("`{path}` cannot be looked up: {why}")]
    Unreachable {
        /// The path.
        path: String,
        /// Cause, as text.
        why: String,
    },
}

fn did_you_mean(similar: &[String]) -> String {
    match similar {
        [] => String::new(),
        names => {
            let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
            format!("; did you mean {}?", names.join(" or "))
        }
    }
}

/// The head's knowledge of a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Found {
    /// A Work or a service of this type.
    Work(String),
    /// A Flow of this type.
    Flow(String),
    /// Nothing. These paths are similar.
    Nothing(Vec<String>),
}

/// Returns those of `names` that are similar to `name`, the most similar first.
pub(super) fn similar(name: &str, names: impl Iterator<Item = ActorPath>) -> Vec<String> {
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let score = |candidate: &str| {
        let whole = strsim::jaro_winkler(name, candidate);
        whole.max(strsim::jaro_winkler(&last(name), &last(candidate)) * 0.98)
    };
    let mut scored: Vec<_> = names.take(COMPARED).map(|path| (score(path.as_str()), path)).collect();
    scored.retain(|(score, _)| *score > 0.8);
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    scored.into_iter().take(FEW).map(|(_, path)| path.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn similar_to(name: &str, names: &[&str]) -> Vec<String> {
        similar(name, names.iter().map(|name| ActorPath::from(*name)))
    }

    /// The last name counts as much as the whole path, and names that have nothing in common do not count.
    #[test]
    fn similar_paths_are_those_with_a_similar_name() {
        let names = ["team.train", "team.evaluate", "server", "other.train"];
        assert_eq!(similar_to("team.trian", &names)[0], "team.train");
        assert_eq!(similar_to("serve", &names), ["server"]);
        assert_eq!(similar_to("train", &names), ["other.train", "team.train"]);
        assert!(similar_to("zzz", &names).is_empty());
        assert!(similar_to("", &names).is_empty());
    }

    /// The text of each error names the path and says what to do.
    #[test]
    fn errors_say_what_is_at_the_path() {
        let (path, similar) = ("a".to_owned(), vec!["b".to_owned(), "c".to_owned()]);
        let text = FindError::NotFound { path: path.clone(), similar }.to_string();
        assert_eq!(text, "there is no work or service `a` in the App; did you mean `b` or `c`?");
        let text = FindError::NotFound { path: path.clone(), similar: Vec::new() }.to_string();
        assert_eq!(text, "there is no work or service `a` in the App");
        let text = FindError::OtherType { path: path.clone(), found: "X".to_owned(), wanted: "Y" };
        assert_eq!(text.to_string(), "work `a` is a `X` and not a `Y`");
        let text = FindError::IsFlow { path, flow: "F".to_owned() }.to_string();
        assert_eq!(text, "`a` is the flow `F`, which takes no messages: find one of the works below it");
    }
}
