//! Changes of one value in a JSON text. Every other byte stays as it was written.
//!
//! The text must be valid JSON. The functions do not validate it, so the caller has to compare the
//! value of the result with the value that it expects.

/// A value in a text, by positions in bytes.
struct MemberSpan {
    /// The start of the member's name, or of the value if it is not in an object.
    start: usize,
    value: usize,
    end: usize,
}

/// Sets the value at a pointer. Returns `None` if there is none.
pub(super) fn set(json: &str, pointer: &str, value: &str) -> Option<String> {
    let place = find(json, pointer)?;
    Some([json.get(..place.value)?, value, json.get(place.end..)?].concat())
}

/// Removes the member at a pointer. An element of an array becomes null, so that the other elements
/// keep their positions. Returns `None` if there is no value.
pub(super) fn remove(json: &str, pointer: &str) -> Option<String> {
    let place = find(json, pointer)?;
    if place.start == place.value {
        return set(json, pointer, "null");
    }
    let (before, after) = (json.get(..place.start)?, json.get(place.end..)?);
    Some(match after.trim_start().strip_prefix(',') {
        Some(next) => [before, next.trim_start()].concat(),
        None => {
            let before = before.trim_end();
            [before.strip_suffix(',').unwrap_or(before), after].concat()
        }
    })
}

/// Adds a member at a pointer, as the last one of its object. Returns `None` if the object does not
/// exist.
pub(super) fn insert(json: &str, pointer: &str, value: &str) -> Option<String> {
    let (parent, name) = pointer.rsplit_once('/')?;
    let object = find(json, parent)?;
    let inside = json.get(object.value..object.end)?.strip_prefix('{')?.strip_suffix('}')?;
    let comma = if inside.trim().is_empty() { "" } else { "," };
    let name = serde_json::to_string(&unescaped(name)).ok()?;
    let (before, after) = json.split_at_checked(object.end - 1)?;
    Some(format!("{before}{comma}{name}:{value}{after}"))
}

/// Decodes a part of a JSON pointer (RFC 6901 section 4).
pub(super) fn unescaped(name: &str) -> String {
    name.replace("~1", "/").replace("~0", "~")
}

fn find(json: &str, pointer: &str) -> Option<MemberSpan> {
    let bytes = json.as_bytes();
    let start = skip_space(bytes, 0);
    let mut place = MemberSpan { start, value: start, end: end_of_value(bytes, start)? };
    for name in pointer.split('/').skip(1) {
        place = child(json, place.value, &unescaped(name))?;
    }
    Some(place)
}

/// Returns the child with this name or index of the object or array that begins at `parent`.
fn child(json: &str, parent: usize, name: &str) -> Option<MemberSpan> {
    let bytes = json.as_bytes();
    let is_object = match bytes.get(parent)? {
        b'{' => true,
        b'[' => false,
        _ => return None,
    };
    let mut start = skip_space(bytes, parent + 1);
    let mut index = 0_usize;
    while !b"]}".contains(bytes.get(start)?) {
        let (value, is_wanted) = if is_object {
            let end = end_of_string(bytes, start)?;
            let colon = skip_space(bytes, end);
            let written: String = serde_json::from_str(json.get(start..end)?).ok()?;
            (skip_space(bytes, colon + 1), written == name)
        } else {
            (start, name.parse::<usize>().ok() == Some(index))
        };
        let end = end_of_value(bytes, value)?;
        if is_wanted {
            return Some(MemberSpan { start, value, end });
        }
        index += 1;
        start = skip_space(bytes, end);
        if bytes.get(start) == Some(&b',') {
            start = skip_space(bytes, start + 1);
        }
    }
    None
}

fn skip_space(json: &[u8], at: usize) -> usize {
    let rest = json.get(at..).unwrap_or_default();
    at + rest.iter().take_while(|byte| b" \t\r\n".contains(byte)).count()
}

fn end_of_value(json: &[u8], start: usize) -> Option<usize> {
    let (mut at, mut depth) = (start, 0_usize);
    loop {
        match json.get(at)? {
            b'"' => at = end_of_string(json, at)?,
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' => {
                depth = depth.checked_sub(1)?;
                at += 1;
            }
            _ if depth > 0 => at += 1,
            // A number or a word.
            _ => {
                let rest = json.get(at..)?;
                at += rest.iter().take_while(|byte| !b",]} \t\r\n".contains(byte)).count();
            }
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

/// Returns the end of the string whose first quote is at `start`.
fn end_of_string(json: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        match json.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#" {"n": 12345678901234567890.10, "a\"/b" : [1,{"x":"}]\\"} ,"s"],
        "payload":{ "token" : "t", "more":{}}, "last":-0}"#;

    #[test]
    fn one_value_is_set_and_every_other_byte_stays() {
        for (pointer, value) in [
            ("/n", "12345678901234567890.10"),
            ("/a\"~1b", r#"[1,{"x":"}]\\"} ,"s"]"#),
            ("/a\"~1b/1", r#"{"x":"}]\\"}"#),
            ("/a\"~1b/1/x", r#""}]\\""#),
            ("/a\"~1b/2", r#""s""#),
            ("/payload/token", r#""t""#),
            ("/payload/more", "{}"),
            ("/last", "-0"),
        ] {
            let at = TEXT.rfind(value).unwrap();
            let expected = [&TEXT[..at], "null", &TEXT[at + value.len()..]].concat();
            assert_eq!(set(TEXT, pointer, "null"), Some(expected), "{pointer}");
        }
        for absent in ["/m", "/payload/tok", "/a\"~1b/3", "/a\"~1b/x", "/n/0", "/payload/token/0"] {
            assert_eq!(set(TEXT, absent, "null"), None, "{absent}");
        }
    }

    #[test]
    fn a_member_goes_with_one_comma_and_an_element_leaves_its_place() {
        for (json, pointer, expected) in [
            (r#"{"a":1,"b":2,"c":3}"#, "/a", r#"{"b":2,"c":3}"#),
            (r#"{"a":1,"b":2,"c":3}"#, "/b", r#"{"a":1,"c":3}"#),
            (r#"{"a":1,"b":2 , "c" : 3 }"#, "/c", r#"{"a":1,"b":2  }"#),
            (r#"{ "a" : 1 }"#, "/a", "{ }"),
            (r#"{"p":{"a":{}}}"#, "/p/a", r#"{"p":{}}"#),
            (r#"{"a":[1,"s"]}"#, "/a/1", r#"{"a":[1,null]}"#),
        ] {
            assert_eq!(remove(json, pointer).as_deref(), Some(expected), "{json} {pointer}");
        }
        assert_eq!(remove(r#"{"a":1}"#, "/b"), None);
    }

    #[test]
    fn a_member_is_added_to_an_object_that_exists() {
        for (json, pointer, expected) in [
            (r#"{"a":1}"#, "/b", Some(r#"{"a":1,"b":"s"}"#)),
            (r#"{"p":{ }}"#, "/p/a~1b", Some(r#"{"p":{ "a/b":"s"}}"#)),
            (r#"{"p":[]}"#, "/p/0", None),
            (r#"{"p":1}"#, "/p/a", None),
            ("{}", "/p/a", None),
        ] {
            assert_eq!(insert(json, pointer, r#""s""#).as_deref(), expected, "{json} {pointer}");
        }
    }
}
