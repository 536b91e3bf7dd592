//! A reader of DER, as much of it as certificates need.
//!
//! Definite, minimal lengths and one-byte tags only; everything else is `None`. It never panics, never
//! allocates and never looks further than its input. What the fields mean is in
//! [`crate::fields`].
//!
//! webpki, which judges paths, does not tell what SPIFFE asks beyond them. What is read here can only refuse: a
//! parser of whole certificates stays out of the decision about a peer, and serves to show them to people.

/// `BOOLEAN`.
pub(crate) const BOOLEAN: u8 = 0x01;
/// `INTEGER`.
pub(crate) const INTEGER: u8 = 0x02;
/// `BIT STRING`.
pub(crate) const BIT_STRING: u8 = 0x03;
/// `OCTET STRING`.
pub(crate) const OCTET_STRING: u8 = 0x04;
/// `OBJECT IDENTIFIER`.
pub(crate) const OID: u8 = 0x06;
/// `UTCTime`.
pub(crate) const UTC_TIME: u8 = 0x17;
/// `GeneralizedTime`.
pub(crate) const GENERALIZED_TIME: u8 = 0x18;
/// `SEQUENCE`.
pub(crate) const SEQUENCE: u8 = 0x30;

/// A position in a sequence of DER values.
#[derive(Clone, Copy)]
pub(crate) struct DerReader<'a>(&'a [u8]);

impl<'a> DerReader<'a> {
    pub(crate) fn new(input: &'a [u8]) -> Self {
        Self(input)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next value, as its tag and its contents.
    pub(crate) fn value(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        // 0x1f in the low bits announces a tag of several bytes; certificates have none.
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (&first, rest) = rest.split_first()?;
        let (len, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81 | 0x82 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                let len = bytes.iter().fold(0, |n, b| n << 8 | usize::from(*b));
                // DER wants the shortest form that holds the length.
                if len < 0x80 || (first == 0x82 && len < 0x100) {
                    return None;
                }
                (len, rest)
            }
            _ => return None,
        };
        let (contents, rest) = rest.split_at_checked(len)?;
        self.0 = rest;
        Some((tag, contents))
    }

    /// The contents of the next value, which must have this tag.
    pub(crate) fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.value().filter(|(t, _)| *t == tag).map(|(_, contents)| contents)
    }

    /// The contents of the next value if it has this tag; otherwise nothing is consumed.
    pub(crate) fn optional(&mut self, tag: u8) -> Option<&'a [u8]> {
        if self.0.first() == Some(&tag) { self.expect(tag) } else { None }
    }
}

/// A non-negative INTEGER's magnitude, without leading zeros.
pub(crate) fn magnitude(contents: &[u8]) -> Option<&[u8]> {
    match contents {
        [] => None,
        [first, ..] if first & 0x80 != 0 => None,
        [0, rest @ ..] => Some(rest),
        all => Some(all),
    }
}

/// A BIT STRING's bytes where no bit of the last one is unused, as in keys.
pub(crate) fn whole_bytes(contents: &[u8]) -> Option<&[u8]> {
    contents.split_first().filter(|(unused, _)| **unused == 0).map(|(_, bytes)| bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lengths_have_one_form() {
        let read = |b: &[u8]| DerReader::new(b).value().map(|(t, c)| (t, c.len()));
        assert_eq!(read(&[4, 1, 0]), Some((4, 1)));
        let mut long = vec![4, 0x81, 0x80];
        long.extend([0; 0x80]);
        assert_eq!(read(&long), Some((4, 0x80)));
        for bad in [
            &[][..],
            &[4],
            &[4, 1],
            &[4, 0x80, 0, 0],
            &[4, 0x81, 1, 0],
            &[4, 0x82, 0, 1, 0],
            &[4, 0x83, 0, 0, 1, 0],
            &[0x1f, 1, 0],
        ] {
            assert_eq!(read(bad), None, "{bad:x?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut reader = DerReader::new(&bytes);
            let mut left = bytes.len();
            while let Some((_, contents)) = reader.value() {
                prop_assert!(contents.len() + 2 <= left);
                left = reader.0.len();
            }
        }
    }
}
