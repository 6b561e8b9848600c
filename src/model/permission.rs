//! The permissions that a route requires. A name may contain parameters of the path.
//!
//! A permission matches only by its exact name. `*` has no special meaning. The client chooses the
//! value of a path parameter, so the value must not turn the name into a permission that the
//! operator did not mean.

use std::fmt;

use crate::model::path::PathPattern;

/// A permission such as `chat:read`, or `room:{room}` with a parameter of the route's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequiredPermission {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Parameter(String),
}

/// The permissions that one request requires, with the values of its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Required {
    Permissions(Box<[String]>),
    /// The path has a value that no permission may contain. No grant has this permission.
    Impossible(String),
}

/// A required permission that the grant does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingPermission {
    pub name: String,
    /// The scope to request for a new bearer token (RFC 6750 section 3).
    pub scope: Option<String>,
}

impl RequiredPermission {
    /// Parses a permission. `path` is the route's path.
    pub fn parse(text: &str, path: &PathPattern) -> Result<Self, String> {
        if text.is_empty() {
            return Err("a permission must not be empty".to_owned());
        }
        if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(format!("`{text}` has white space; list each permission separately"));
        }
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some((before, after)) = rest.split_once('{') {
            let Some((name, behind)) = after.split_once('}').filter(|_| !before.contains('}'))
            else {
                return Err(format!("`{text}` has an unmatched brace"));
            };
            if !path.parameter_names().any(|one| one == name) {
                return Err(format!("the path `{path}` has no `{{{name}}}`"));
            }
            if parts.is_empty() && before.is_empty() {
                return Err(format!(
                    "`{text}` could become any permission; begin with fixed text, such as \
                     `room:{{{name}}}`"
                ));
            }
            if !before.ends_with(|c: char| c.is_ascii_punctuation()) {
                return Err(format!("`{text}` needs a separator before `{{{name}}}`, such as `:`"));
            }
            parts.push(Part::Text(before.to_owned()));
            parts.push(Part::Parameter(name.to_owned()));
            rest = behind;
        }
        if rest.contains('}') {
            return Err(format!("`{text}` has an unmatched brace"));
        }
        if !rest.is_empty() {
            if !parts.is_empty() && !rest.starts_with(|c: char| c.is_ascii_punctuation()) {
                return Err(format!(
                    "`{text}` needs a separator after its last parameter, such as `:`"
                ));
            }
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self { parts })
    }

    /// Returns the name if it has no parameter.
    pub fn fixed(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Returns the name with the values of a path, and true if every value is allowed in it.
    fn filled(&self, parameters: &[(String, String)]) -> (String, bool) {
        let (mut name, mut is_possible) = (String::new(), true);
        for part in &self.parts {
            match part {
                Part::Text(text) => name.push_str(text),
                Part::Parameter(wanted) => match parameters.iter().find(|(name, _)| name == wanted)
                {
                    Some((_, value)) => {
                        is_possible &= self.may_hold(value);
                        name.push_str(value);
                    }
                    None => is_possible = false,
                },
            }
        }
        (name, is_possible)
    }

    /// Returns true if a value may replace a parameter. `room:{room}` with the room `blue:admin`
    /// would be another kind of permission, so the value must not contain a separator of the name.
    /// `*` is refused because other software reads it as a wildcard.
    fn may_hold(&self, value: &str) -> bool {
        let parts = |c: char| {
            c.is_ascii_punctuation()
                && self
                    .parts
                    .iter()
                    .any(|part| matches!(part, Part::Text(text) if text.contains(c)))
        };
        !value.is_empty()
            && !value
                .contains(|c: char| c == '*' || c.is_whitespace() || c.is_control() || parts(c))
    }
}

impl fmt::Display for RequiredPermission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.parts {
            match part {
                Part::Text(text) => f.write_str(text)?,
                Part::Parameter(name) => write!(f, "{{{name}}}")?,
            }
        }
        Ok(())
    }
}

impl Required {
    /// Returns the permissions for a request. `None`: the route requires none.
    pub fn of(required: &[RequiredPermission], parameters: &[(String, String)]) -> Option<Self> {
        let mut names = Vec::with_capacity(required.len());
        for one in required {
            match one.filled(parameters) {
                (name, true) => names.push(name),
                (name, false) => return Some(Self::Impossible(name)),
            }
        }
        (!names.is_empty()).then(|| Self::Permissions(names.into()))
    }

    /// Returns the names of all permissions, also of an impossible one.
    pub fn names(&self) -> &[String] {
        match self {
            Self::Permissions(names) => names,
            Self::Impossible(name) => std::slice::from_ref(name),
        }
    }

    /// Returns the first permission that is not in `granted` as the error.
    pub fn check(&self, granted: &[String]) -> Result<(), MissingPermission> {
        match self {
            Self::Impossible(name) => Err(MissingPermission { name: name.clone(), scope: None }),
            Self::Permissions(names) => match names.iter().find(|name| !granted.contains(name)) {
                None => Ok(()),
                Some(name) => Err(MissingPermission { name: name.clone(), scope: scope(names) }),
            },
        }
    }
}

impl MissingPermission {
    /// Removes the scope: the credential is not a bearer token.
    pub fn without_scope(self) -> Self {
        Self { scope: None, ..self }
    }
}

/// Returns the names as one scope. RFC 6749 section 3.3: `scope-token = 1*( %x21 / %x23-5B /
/// %x5D-7E )`. `None`: a name has other characters.
fn scope(names: &[String]) -> Option<String> {
    let is_scope =
        |name: &String| name.bytes().all(|byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e));
    names.iter().all(is_scope).then(|| names.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn required(text: &str, path: &str) -> Result<RequiredPermission, String> {
        RequiredPermission::parse(text, &PathPattern::parse(path).unwrap())
    }

    fn is_granted(text: &str, value: &str, granted: &[&str]) -> bool {
        let required = required(text, "/v1/{team}/{room}").unwrap();
        let parameters =
            [("team".to_owned(), "ops".to_owned()), ("room".to_owned(), value.to_owned())];
        let granted: Vec<_> = granted.iter().map(|one| (*one).to_owned()).collect();
        Required::of(&[required], &parameters).unwrap().check(&granted).is_ok()
    }

    #[test]
    fn a_permission_is_there_letter_for_letter_or_it_is_not() {
        assert!(is_granted("chat:read", "x", &["a", "chat:read"]));
        for granted in [
            &[][..],
            &["chat:rea"],
            &["chat:reader"],
            &["Chat:read"],
            &["chat:*"],
            &["*"],
            &["chat"],
            &[""],
            &["chat:read "],
        ] {
            assert!(!is_granted("chat:read", "x", granted), "{granted:?}");
        }
    }

    #[test]
    fn the_path_fills_its_place_and_spells_nothing_else() {
        assert!(is_granted("room:{room}", "blue", &["room:blue"]));
        assert!(is_granted("room:{team}:{room}:write", "blue", &["room:ops:blue:write"]));
        assert!(
            is_granted("room:{room}", "Blå-1.2", &["room:Blå-1.2"]),
            "other characters are allowed"
        );
        assert!(
            is_granted("room/{room}", "!abc:example.org", &["room/!abc:example.org"]),
            "the text has another separator"
        );
        assert!(!is_granted(
            "room:{room}",
            "blue",
            &["room:{room}", "room:", "room:*", "room:Blue"]
        ));
        for value in [
            "blue:admin",
            ":",
            "",
            "*",
            "b*",
            "blue admin",
            "blue\u{a0}admin",
            "blue\tadmin",
            "blue\nroom:red",
        ] {
            assert!(
                !is_granted(
                    "room:{room}",
                    value,
                    &[&format!("room:{value}"), "room:*", "room:", "room:blue"]
                ),
                "{value:?}"
            );
        }
        // The same text with the separator in another place.
        assert!(!is_granted("room:{room}.{team}", "a.b", &["room:a.b.ops"]));
    }

    proptest! {
        /// Each path requires only the permission of its own room. Two paths never require the same
        /// permission.
        #[test]
        fn no_two_paths_ask_for_the_same(
            one in "[ab:.*/ -]{0,4}",
            other in "[ab:.*/ -]{0,4}",
            three in "[ab:.]{0,3}",
        ) {
            let template = required("room:{team}:{room}.x", "/{team}/{room}").unwrap();
            let of = |team: &str, room: &str| {
                let parameters = [("team", team), ("room", room)]
                    .map(|(name, value)| (name.to_owned(), value.to_owned()));
                Required::of(std::slice::from_ref(&template), &parameters).unwrap()
            };
            let asked = of(&one, &other);
            if let Required::Permissions(names) = &asked {
                prop_assert_eq!(names.to_vec(), [format!("room:{one}:{other}.x")]);
                prop_assert!(of(&one, &three) != asked || other == three);
                prop_assert!(of(&three, &other) != asked || one == three);
                prop_assert!(of(&three, &one) != asked || (one == three && other == one));
                prop_assert_eq!(names[0].matches([':', '.', '*', ' ']).count(), 3);
            } else {
                let odd = |value: &str| value.is_empty() || value.contains([':', '.', '*', ' ']);
                prop_assert!(odd(&one) || odd(&other));
            }
        }
    }

    #[test]
    fn what_is_written_wrong_is_told() {
        for (text, part) in [
            ("", "not be empty"),
            ("a b", "white space"),
            ("room:{rom}", "has no `{rom}`"),
            ("room:{}", "has no `{}`"),
            ("{room}", "any permission"),
            ("{room}:read", "any permission"),
            ("room{room}", "separator before"),
            ("room:{team}{room}", "separator before"),
            ("room:{room}read", "separator after"),
            ("room:{room", "unmatched brace"),
            ("room:room}", "unmatched brace"),
            ("room}:{room}", "unmatched brace"),
        ] {
            let error = required(text, "/v1/{team}/{room}").unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert_eq!(required("room:{room}:x", "/{room}").unwrap().to_string(), "room:{room}:x");
    }

    #[test]
    fn a_scope_is_named_where_it_can_be() {
        let names = |names: &[&str]| {
            Required::Permissions(names.iter().map(|name| (*name).to_owned()).collect())
        };
        let missing = |required: &Required| required.check(&["a".to_owned()]).unwrap_err();
        assert_eq!(
            missing(&names(&["a", "b", "c"])),
            MissingPermission { name: "b".to_owned(), scope: Some("a b c".to_owned()) }
        );
        assert_eq!(missing(&names(&["a", "b\""])).scope, None);
        assert_eq!(missing(&names(&["room:ü"])).scope, None);
    }
}
