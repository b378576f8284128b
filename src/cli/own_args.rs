//! The program's own arguments beside those of Flowright.

use std::any::type_name;
use std::ffi::OsString;
use std::process::ExitCode;

use clap::{ArgMatches, Command};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::app::App;
use crate::entry::WRONG_USAGE;
use crate::flow::Flow;
use crate::printable::one_line;
use crate::work::{ArgsError, Arguments, EncodedArguments};

/// The heading in the help above the program's own arguments.
const HEADING: &str = "Options of this App";

/// The type of the program's own arguments, as functions of it.
#[derive(Clone, Copy)]
pub(super) struct OwnArgs {
    type_name: &'static str,
    augment: fn(Command) -> Command,
    read: fn(&ArgMatches) -> Result<EncodedArguments, Unread>,
}

/// The reason why the program's own arguments cannot be read.
pub(super) enum Unread {
    Usage(clap::Error),
    Codec(ArgsError),
}

impl OwnArgs {
    pub(super) fn of<A: clap::Args + Serialize + DeserializeOwned>() -> Self {
        Self {
            type_name: type_name::<A>(),
            augment: A::augment_args,
            read: |matches| {
                let args = A::from_arg_matches(matches).map_err(Unread::Usage)?;
                EncodedArguments::new(&args).map_err(Unread::Codec)
            },
        }
    }

    /// Adds the arguments to those of a command.
    pub(super) fn add_to(self, command: Command) -> Command {
        let about = command.get_about().cloned();
        let command = (self.augment)(command.next_help_heading(HEADING)).next_help_heading(None);
        match about {
            // That of the type would be the one of the command.
            Some(about) => command.about(about),
            None => command,
        }
    }

    /// Reads the arguments from those of a command to which they were added.
    pub(super) fn read(self, matches: &ArgMatches) -> Result<EncodedArguments, Unread> {
        (self.read)(matches)
    }

    /// Reads the arguments from a command line that has no others.
    pub(super) fn parse(self, args: &[OsString]) -> Result<EncodedArguments, Unread> {
        let command = (self.augment)(Command::new("the App's own arguments").no_binary_name(true));
        let matches = command.try_get_matches_from(args).map_err(Unread::Usage)?;
        self.read(&matches)
    }

    /// Returns an error if one of the arguments cannot be told from one of `command`, which is Flowright's.
    pub(super) fn check(self, command: &Command) -> Result<(), String> {
        let own = (self.augment)(Command::new("own"));
        let type_name = self.type_name;
        if let Some(subcommand) = own.get_subcommands().next() {
            let name = subcommand.get_name();
            return Err(format!(
                "`{type_name}` has the subcommand `{name}`: an App's own arguments have none"
            ));
        }
        for arg in own.get_arguments() {
            let longs = || arg.get_long_and_visible_aliases().unwrap_or_default();
            let shorts = || arg.get_short_and_visible_aliases().unwrap_or_default();
            let is_taken = |other: &clap::Arg| {
                let of_other = other.get_long_and_visible_aliases().unwrap_or_default();
                let short_of_other = other.get_short_and_visible_aliases().unwrap_or_default();
                other.get_id() == arg.get_id()
                    || longs().iter().any(|long| of_other.contains(long))
                    || shorts().iter().any(|short| short_of_other.contains(short))
            };
            if command.get_arguments().any(is_taken) || longs().contains(&"help") || shorts().contains(&'h') {
                let name = arg.get_id();
                return Err(format!(
                    "the argument `{name}` of `{type_name}` has the name of one of Flowright's: rename it"
                ));
            }
        }
        Ok(())
    }
}

impl App {
    /// Creates an App as [`App::new`] does, whose program has arguments of its own beside those of Flowright: `--help` shows
    /// them, the root Flow is constructed from them, and Works read them by
    /// [`WorkContext::args`](crate::WorkContext::args) wherever they run. A node gets those of the head that it joins.
    ///
    /// The program depends on `clap` 4 with its feature `derive`. [`App::spawn`] uses the arguments of [`App::args`], and
    /// those of an empty command line without it. The commands `journal check` and `journal rereact` take the arguments
    /// behind a `--`.
    ///
    /// A positional argument also takes what is no command of Flowright, such as a misspelt one.
    ///
    /// ```no_run
    /// # use flowright::prelude::*;
    /// #[derive(clap::Args, Serialize, Deserialize)]
    /// struct TrainArgs {
    ///     /// The number of epochs
    ///     #[arg(long, default_value_t = 10)]
    ///     epochs: u32,
    /// }
    ///
    /// # #[derive(Default, Serialize, Deserialize)]
    /// # struct Train;
    /// # impl Work for Train {
    /// #     type Input = u32;
    /// #     async fn run(&mut self, _: u32, _: &mut WorkContext<Self>) -> Result<()> { Ok(()) }
    /// # }
    /// #[derive(Serialize, Children)]
    /// struct Pipeline {
    ///     epochs: u32,
    ///     train: WorkRef<Train>,
    /// }
    ///
    /// impl Flow for Pipeline {
    ///     fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
    ///         self.train.run(self.epochs);
    ///         Ok(())
    ///     }
    /// }
    ///
    /// fn main() -> ExitCode {
    ///     App::with_args(|args: TrainArgs| Pipeline { epochs: args.epochs, train: WorkRef::default() }).main()
    /// }
    /// ```
    pub fn with_args<A, F>(make: impl FnOnce(A) -> F + Send + 'static) -> Self
    where
        A: clap::Args + Serialize + DeserializeOwned + 'static,
        F: Flow,
    {
        let arguments = std::sync::Arc::new(Arguments::default());
        let given = arguments.clone();
        let mut app = Self::new(move || make(given.read().expect("the arguments have been completed")));
        app.arguments = arguments;
        app.complete_args = Some(complete::<A>);
        app.extensions.push(Box::new(OwnArgs::of::<A>()));
        app
    }

    /// Reads the App's own arguments from a command line that has no others. Prints what is wrong with them, and returns
    /// the exit code then.
    pub(super) fn read_args(&self, args: &[OsString]) -> Result<(), ExitCode> {
        let error = match (self.own_args(), args) {
            (None, []) => return Ok(()),
            (None, [first, ..]) => {
                let first = first.to_string_lossy();
                format!("{:?} follows a `--`, but this App has no arguments of its own", one_line(&first))
            }
            (Some(own), args) => match own.parse(args) {
                Ok(encoded) => {
                    self.arguments.set(encoded);
                    return Ok(());
                }
                Err(Unread::Usage(error)) => error.exit(),
                Err(Unread::Codec(error)) => error.to_string(),
            },
        };
        eprintln!("error: {error}");
        Err(ExitCode::from(WRONG_USAGE))
    }

    /// Returns the type of the program's own arguments, if it has any.
    pub(super) fn own_args(&self) -> Option<OwnArgs> {
        self.extensions.iter().find_map(|extension| extension.downcast_ref().copied())
    }
}

/// Sets the arguments of an empty command line, if none have been set, and checks their type.
fn complete<A: clap::Args + Serialize + DeserializeOwned>(arguments: &Arguments) -> Result<(), ArgsError> {
    match arguments.read::<A>() {
        Ok(_) => Ok(()),
        Err(ArgsError::NoArgs) => {
            let encoded = OwnArgs::of::<A>().parse(&[]).map_err(|unread| match unread {
                Unread::Usage(error) => ArgsError::Incomplete { why: error.to_string().trim().to_owned() },
                Unread::Codec(error) => error,
            })?;
            arguments.set(encoded);
            Ok(())
        }
        Err(error) => Err(error),
    }
}
