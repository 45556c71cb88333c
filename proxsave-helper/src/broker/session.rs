//! The order of a session, as one table.
//!
//! ```text
//!              hello       submit        stream       (writer)      commit          (writer)
//!   Connected ───────▶ Greeted ─────▶ Approved ─────▶ Staging ─────▶ Staged ─────▶ Committing ─────▶ Over
//!                       │ probe*         │               │              │               │ cancel: too late
//!                       └────────────────┴── cancel ─────┴──────────────┴──────────▶  Over   report*
//! ```
//!
//! A refused plan and a dry run lead from Greeted to Over. What the table does not list ends the session.

use std::fmt;

/// Where a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The caller is known, nothing was said.
    Connected,
    /// Targets may be looked at.
    Greeted,
    /// A plan was checked against the live tree.
    Approved,
    /// The writer takes contents.
    Staging,
    /// All is staged and durable.
    Staged,
    /// The writer puts names in place: it cannot be stopped any more.
    Committing,
    /// The transaction is over, in one way or another.
    Over,
}

/// What a front-end asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Open the session.
    Hello,
    /// Look at targets.
    Probe,
    /// Hand over a plan.
    Submit,
    /// Begin to send contents.
    Stream,
    /// Put names in place.
    Commit,
    /// Stop.
    Cancel,
    /// Tell the end.
    Report,
}

/// What a call that is in order does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Opens the session: to [`State::Greeted`].
    Open,
    /// Looks at targets and stays.
    Look,
    /// Checks the plan: to [`State::Approved`], or to [`State::Over`] when it is refused or a dry run.
    Check,
    /// Starts the writer: to [`State::Staging`].
    Stage,
    /// Tells the writer to go on: to [`State::Committing`].
    Commit,
    /// Stops: to [`State::Over`].
    Cancel,
    /// Takes note and changes nothing: a cancel that comes too late.
    Nothing,
    /// Tells the end and stays.
    Report,
}

/// What the table says about a call in a state; `None` ends the session.
#[must_use]
pub fn act(state: State, call: Call) -> Option<Act> {
    Some(match (state, call) {
        (State::Connected, Call::Hello) => Act::Open,
        (State::Greeted, Call::Probe) => Act::Look,
        (State::Greeted, Call::Submit) => Act::Check,
        (State::Approved, Call::Stream) => Act::Stage,
        (State::Staged, Call::Commit) => Act::Commit,
        (State::Greeted | State::Approved | State::Staging | State::Staged, Call::Cancel) => Act::Cancel,
        (State::Committing | State::Over, Call::Cancel) => Act::Nothing,
        (State::Over, Call::Report) => Act::Report,
        _ => return None,
    })
}

impl State {
    /// What happens to the transaction when the front-end goes away: only a commit that has begun is finished.
    #[must_use]
    pub fn outlives_front_end(self) -> bool {
        matches!(self, State::Committing)
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Call::Hello => "hello",
            Call::Probe => "probe",
            Call::Submit => "submit",
            Call::Stream => "stream",
            Call::Commit => "commit",
            Call::Cancel => "cancel",
            Call::Report => "report",
        })
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Connected => "before hello",
            State::Greeted => "before a plan",
            State::Approved => "after a plan was approved",
            State::Staging => "while contents are staged",
            State::Staged => "before commit",
            State::Committing => "while names are put in place",
            State::Over => "after the end of a transaction",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_allows_this_and_nothing_else() {
        use {Act as A, Call as C, State as S};
        let states = [S::Connected, S::Greeted, S::Approved, S::Staging, S::Staged, S::Committing, S::Over];
        let calls = [C::Hello, C::Probe, C::Submit, C::Stream, C::Commit, C::Cancel, C::Report];
        // Rows: states; columns: hello, probe, submit, stream, commit, cancel, report.
        #[rustfmt::skip]
        let table = [
            [Some(A::Open), None,          None,           None,           None,            None,             None],
            [None,          Some(A::Look), Some(A::Check), None,           None,            Some(A::Cancel),  None],
            [None,          None,          None,           Some(A::Stage), None,            Some(A::Cancel),  None],
            [None,          None,          None,           None,           None,            Some(A::Cancel),  None],
            [None,          None,          None,           None,           Some(A::Commit), Some(A::Cancel),  None],
            [None,          None,          None,           None,           None,            Some(A::Nothing), None],
            [None,          None,          None,           None,           None,            Some(A::Nothing), Some(A::Report)],
        ];
        for (state, row) in states.into_iter().zip(table) {
            for (call, expected) in calls.into_iter().zip(row) {
                assert_eq!(act(state, call), expected, "{call} {state}");
            }
        }
        assert_eq!(states.into_iter().filter(|state| state.outlives_front_end()).collect::<Vec<_>>(), [S::Committing]);
    }
}
