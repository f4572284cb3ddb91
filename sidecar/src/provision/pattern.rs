//! Where in a bucket a new volume goes, by a pattern.
//!
//! Owns `pathPattern`, in the words of Kubernetes (`${pvc.namespace}`) and in those of the NFS
//! provisioners (`${namespace}`, `${.PVC.namespace}`). Must not know what stands at that place.

/// The names that a pattern may have in it; none where the provisioner was not told to say them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Names<'n> {
    pub(super) namespace: Option<&'n str>,
    pub(super) claim: Option<&'n str>,
    pub(super) volume: &'n str,
}

/// The NFS provisioner's: one folder a volume, which nobody else will have.
const DEFAULT: &str = "${pvc.namespace}-${pvc.name}-${pv.name}";

/// The place that `pattern` names; without one, a place that no other volume has.
pub(super) fn fill(pattern: Option<&str>, names: Names<'_>) -> Result<String, String> {
    match (pattern, names.claim) {
        (Some(pattern), _) => replace(pattern, names),
        (None, Some(_)) => replace(DEFAULT, names),
        (None, None) => Ok(names.volume.to_owned()),
    }
}

fn replace(pattern: &str, names: Names<'_>) -> Result<String, String> {
    let mut filled = String::with_capacity(pattern.len());
    let mut rest = pattern;
    while let Some((before, behind)) = rest.split_once("${") {
        let (word, after) =
            behind.split_once('}').ok_or_else(|| format!("`{pattern}` has `${{` without `}}`"))?;
        filled.push_str(before);
        filled.push_str(value(word.trim(), names)?);
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

fn value<'n>(word: &str, names: Names<'n>) -> Result<&'n str, String> {
    let said = match word {
        "pvc.namespace" | ".PVC.namespace" | "namespace" => names.namespace,
        "pvc.name" | ".PVC.name" | "pvcName" => names.claim,
        "pv.name" | ".PV.name" | "pvName" => Some(names.volume),
        _ => {
            return Err(format!(
                "`${{{word}}}` is unknown; there are ${{pvc.namespace}}, ${{pvc.name}} and \
                 ${{pv.name}}"
            ));
        }
    };
    said.ok_or_else(|| {
        format!(
            "`${{{word}}}` is not known here; the external-provisioner needs \
             --extra-create-metadata"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: Names<'_> =
        Names { namespace: Some("team-a"), claim: Some("web"), volume: "pvc-1" };

    #[test]
    fn a_pattern_is_filled_in_whoever_wrote_it() {
        for (pattern, place) in [
            (Some("${pvc.namespace}/${pvc.name}"), "team-a/web"),
            (Some("${.PVC.namespace}/${.PVC.name}"), "team-a/web"),
            (Some("${namespace}-${pvcName}-${pvName}"), "team-a-web-pvc-1"),
            (Some("${ pv.name }/data"), "pvc-1/data"),
            (Some("plain"), "plain"),
            (None, "team-a-web-pvc-1"),
        ] {
            assert_eq!(fill(pattern, NAMES).as_deref(), Ok(place), "{pattern:?}");
        }
        let nameless = Names { namespace: None, claim: None, volume: "v" };
        assert_eq!(fill(None, nameless).as_deref(), Ok("v"));
    }

    #[test]
    fn what_cannot_be_filled_in_is_named() {
        for (pattern, words) in [
            ("${pvc.uid}", "`${pvc.uid}`"),
            ("${.PVC.labels.team}", "`${.PVC.labels.team}`"),
            ("${pvc.name", "without `}`"),
        ] {
            let said = fill(Some(pattern), NAMES).unwrap_err();
            assert!(said.contains(words), "{said}");
        }
        let nameless = Names { namespace: None, claim: None, volume: "v" };
        let said = fill(Some("${pvc.name}"), nameless).unwrap_err();
        assert!(said.contains("--extra-create-metadata"), "{said}");
    }
}
