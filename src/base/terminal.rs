//! Whether output to a terminal may have colours.

use std::ffi::OsStr;
use std::io::IsTerminal;

/// Returns true if output may have colours. `NO_COLOR` turns them off, otherwise `CLICOLOR_FORCE`
/// turns them on. Without either, a terminal has colours unless `TERM=dumb`.
pub fn is_coloured(stream: &impl IsTerminal) -> bool {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    judge(
        variable("NO_COLOR").is_some(),
        variable("CLICOLOR_FORCE").as_deref(),
        variable("TERM").as_deref(),
        stream.is_terminal(),
    )
}

fn judge(no_color: bool, force: Option<&OsStr>, term: Option<&OsStr>, is_terminal: bool) -> bool {
    let is_forced = force.is_some_and(|value| value != "0");
    !no_color && (is_forced || is_terminal && term.is_none_or(|term| term != "dumb"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variables_decide_in_their_order() {
        let [one, zero, dumb, xterm] = ["1", "0", "dumb", "xterm"].map(OsStr::new);
        for (no_color, force, term, is_terminal, wanted) in [
            (false, None, None, true, true),
            (false, None, Some(xterm), true, true),
            (false, None, Some(xterm), false, false),
            (false, None, Some(dumb), true, false),
            (false, Some(one), Some(dumb), false, true),
            (false, Some(zero), Some(xterm), false, false),
            (true, Some(one), Some(xterm), true, false),
        ] {
            assert_eq!(
                judge(no_color, force, term, is_terminal),
                wanted,
                "{no_color} {force:?} {term:?} {is_terminal}"
            );
        }
    }
}
