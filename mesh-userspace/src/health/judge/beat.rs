/// What became of a pulse.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Beat {
    Answered,
    Lost,
    /// The target itself says that nobody listens.
    Refused,
    /// A router says that there is no way.
    Unreachable,
    /// It never went out: we have no way there ourselves.
    Unsent,
}
