//! The processes that have a value, and the fate of the value when some of them leave.

/// Presence of a process that has a value, now and in the future.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    Stays,
    Leaves,
    Gone,
}

/// The fate of a value that is referenced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// A process that stays has the value.
    Kept,
    /// Only processes that leave have the value.
    Moves,
    Lost,
}

/// Returns the fate of a value of which these processes have copies; `here` if the head has one too.
pub(super) fn fate(here: bool, holders: impl IntoIterator<Item = Presence>) -> Fate {
    if here {
        return Fate::Kept;
    }
    let mut fate = Fate::Lost;
    for holder in holders {
        match holder {
            Presence::Stays => return Fate::Kept,
            Presence::Leaves => fate = Fate::Moves,
            Presence::Gone => {}
        }
    }
    fate
}
