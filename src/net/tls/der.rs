//! Reads values of DER: tag, length, content. Strict: one form of a length, no trailing bytes.

pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const OBJECT_ID: u8 = 0x06;
pub(super) const ENUMERATED: u8 = 0x0a;
pub(super) const GENERALIZED_TIME: u8 = 0x18;
pub(super) const SEQUENCE: u8 = 0x30;

/// The bytes of consecutive values.
#[derive(Clone, Copy, Debug)]
pub(super) struct Der<'a>(&'a [u8]);

/// One value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value<'a> {
    pub(super) tag: u8,
    pub(super) content: &'a [u8],
    /// The value with its tag and length.
    pub(super) whole: &'a [u8],
}

impl<'a> Der<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the next value. `None` for bytes that are not DER.
    pub(super) fn next(&mut self) -> Option<Value<'a>> {
        let (&tag, rest) = self.0.split_first()?;
        // Tags of several bytes do not occur in certificates.
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                let length = bytes.iter().fold(0, |sum, byte| (sum << 8) | usize::from(*byte));
                let is_shortest = bytes.first() != Some(&0) && length > 0x7f;
                (is_shortest.then_some(length)?, rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        let whole = self.0.get(..self.0.len() - rest.len())?;
        self.0 = rest;
        Some(Value { tag, content, whole })
    }

    /// Returns the next value, which must have this tag.
    pub(super) fn take(&mut self, tag: u8) -> Option<Value<'a>> {
        self.next().filter(|value| value.tag == tag)
    }

    /// Returns the next value if it has this tag.
    pub(super) fn take_optional(&mut self, tag: u8) -> Option<Value<'a>> {
        if self.0.first() == Some(&tag) { self.next() } else { None }
    }
}

impl<'a> Value<'a> {
    /// Returns the values inside.
    pub(super) fn inside(&self) -> Der<'a> {
        Der(self.content)
    }

    /// Returns the bytes of a bit string without unused bits.
    pub(super) fn bits(&self) -> Option<&'a [u8]> {
        let (&unused, bytes) = self.content.split_first()?;
        (self.tag == BIT_STRING && unused == 0).then_some(bytes)
    }
}

/// Returns the value that these bytes are. `None` if other bytes follow.
pub(super) fn only(bytes: &[u8], tag: u8) -> Option<Value<'_>> {
    let mut der = Der::new(bytes);
    der.take(tag).filter(|_| der.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_one_form() {
        assert_eq!(only(&[0x04, 2, 7, 8], OCTET_STRING).unwrap().content, [7, 8]);
        let long: Vec<u8> = [&[0x04, 0x81, 0x80][..], &[1; 128]].concat();
        assert_eq!(only(&long, OCTET_STRING).unwrap().content.len(), 128);
        for wrong in [
            &[0x04][..],
            &[0x04, 1],
            &[0x04, 0x80, 0, 0],
            &[0x04, 0x81, 1, 7],
            &[0x04, 0x82, 0, 1, 7],
            &[0x04, 0x85, 0, 0, 0, 0, 1, 7],
            &[0x04, 0x84, 0xff, 0xff, 0xff, 0xff, 7],
            &[0x04, 1, 7, 7],
            &[0x1f, 1, 7],
            &[0x30, 0],
        ] {
            assert!(only(wrong, OCTET_STRING).is_none(), "{wrong:?}");
        }
    }
}
