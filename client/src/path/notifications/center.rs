//! The distributed notification center of macOS. It decides nothing: it converts values of CoreFoundation to neutral ones and back. Each
//! `unsafe` block is one call of CoreFoundation.

use super::envelope::{Dialect, ENTRIES_MAX, Info, PAYLOAD_BYTES_MAX, TEXT_BYTES_MAX, Value};
use super::inbox::Inbox;
use super::service::{Center, Observation, Service};
use bytes::Bytes;
use objc2_core_foundation::{
    CFData, CFDictionary, CFNotificationCenter, CFNotificationName, CFNotificationSuspensionBehavior, CFNumber,
    CFRetained, CFRunLoop, CFString, CFType,
};
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Set by the system for a program that runs in an app sandbox.
const SANDBOX_VARIABLE: &str = "APP_SANDBOX_CONTAINER_ID";

/// The notifications of this session.
pub(crate) fn service(dialect: Dialect) -> Option<Service> {
    let is_sandboxed = std::env::var_os(SANDBOX_VARIABLE).is_some_and(|value| !value.is_empty());
    CFNotificationCenter::distributed_center()?;
    Some(Service { center: Arc::new(Distributed { is_sandboxed }), dialect })
}

#[derive(Debug)]
struct Distributed {
    is_sandboxed: bool,
}

impl Center for Distributed {
    #[allow(unsafe_code)]
    fn post(&self, name: &str, info: &Info) {
        let Some(center) = CFNotificationCenter::distributed_center() else { return };
        let (name, info) = (CFString::from_str(name), dictionary_of(info));
        let info = info.as_ref().map(|info| info.as_opaque());
        // SAFETY: the name is a string, there is no object, and the dictionary has strings as keys and values of a property list.
        unsafe { center.post_notification(Some(&name), ptr::null(), info, true) };
    }

    #[allow(unsafe_code)]
    fn observe(&self, name: &str, inbox: &Arc<Inbox>) -> Box<dyn Observation> {
        let ticket = Observers::lock().add(Arc::downgrade(inbox));
        if let Some(center) = CFNotificationCenter::distributed_center() {
            // SAFETY: the center never dereferences the observer, which is a number; the callback has the right type, and accepts a
            // number that is no longer known.
            unsafe {
                center.add_observer(
                    ptr::without_provenance(ticket),
                    Some(deliver),
                    Some(&CFString::from_str(name)),
                    ptr::null(),
                    CFNotificationSuspensionBehavior::DeliverImmediately,
                );
            }
        }
        Box::new(Observed { ticket })
    }

    fn is_delivering(&self) -> bool {
        CFRunLoop::main().is_some_and(|run_loop| run_loop.current_mode().is_some())
    }

    fn takes_payloads(&self) -> bool {
        !self.is_sandboxed
    }
}

#[derive(Debug)]
struct Observed {
    ticket: usize,
}

impl Observation for Observed {}

impl Drop for Observed {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        Observers::lock().inboxes.remove(&self.ticket);
        if let Some(center) = CFNotificationCenter::distributed_center() {
            // SAFETY: it is the number that was added, which the center never dereferences.
            unsafe { center.remove_every_observer(ptr::without_provenance(self.ticket)) };
        }
    }
}

/// The inboxes that callbacks deliver to. The main thread can be in a callback while another thread drops the handle. The center therefore
/// receives a number, which may no longer be known, and not a pointer.
#[derive(Debug)]
struct Observers {
    inboxes: BTreeMap<usize, Weak<Inbox>>,
    last: usize,
}

impl Observers {
    fn lock() -> MutexGuard<'static, Self> {
        static OBSERVERS: Mutex<Observers> = Mutex::new(Observers { inboxes: BTreeMap::new(), last: 0 });
        OBSERVERS.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&mut self, inbox: Weak<Inbox>) -> usize {
        self.last += 1; // from 1: the center accepts no null pointer
        self.inboxes.insert(self.last, inbox);
        self.last
    }
}

/// Called on the main thread, in its run loop. It must not wait.
extern "C-unwind" fn deliver(
    _: *mut CFNotificationCenter,
    observer: *mut c_void,
    _: *const CFNotificationName,
    _: *const c_void,
    info: *const CFDictionary,
) {
    let inbox = Observers::lock().inboxes.get(&observer.addr()).and_then(Weak::upgrade);
    if let Some(inbox) = inbox {
        inbox.put(info_of(info));
    }
}

/// The content of a notification. Any process may have posted it: neither its type nor its size is known.
#[allow(unsafe_code)]
fn info_of(info: *const CFDictionary) -> Info {
    let Some(info) = NonNull::new(info.cast_mut()) else { return Info::Absent };
    // SAFETY: it is an object that lives as long as the callback, though perhaps not a dictionary.
    let info = unsafe { CFRetained::retain(info.cast::<CFType>()) };
    let Ok(info) = info.downcast::<CFDictionary>() else { return Info::Other };
    if !usize::try_from(info.count()).is_ok_and(|count| count <= ENTRIES_MAX) {
        return Info::Other;
    }
    // SAFETY: what another process posted was a property list: every key and every value is an object.
    let info = unsafe { CFRetained::cast_unchecked::<CFDictionary<CFType, CFType>>(info) };
    let (keys, values) = info.to_vecs();
    let mut entries = BTreeMap::new();
    for (key, value) in keys.iter().zip(&values) {
        match value_of(key) {
            Value::Text(key) => entries.insert(key, value_of(value)),
            Value::Bytes(_) | Value::Integer(_) | Value::TooLarge | Value::Other => return Info::Other,
        };
    }
    Info::Entries(entries)
}

fn value_of(value: &CFType) -> Value {
    let fits = |len: usize, max: usize| len <= max;
    if let Some(text) = value.downcast_ref::<CFString>() {
        // Its length counts UTF-16 units, each of which becomes at most three bytes.
        let len = usize::try_from(text.length()).unwrap_or(usize::MAX);
        if fits(len, TEXT_BYTES_MAX / 3) { Value::Text(text.to_string()) } else { Value::TooLarge }
    } else if let Some(data) = value.downcast_ref::<CFData>() {
        let max = usize::try_from(PAYLOAD_BYTES_MAX).unwrap_or(usize::MAX);
        if fits(data.len(), max) { Value::Bytes(Bytes::from(data.to_vec())) } else { Value::TooLarge }
    } else if let Some(number) = value.downcast_ref::<CFNumber>() {
        number.as_i64().map_or(Value::Other, Value::Integer)
    } else {
        Value::Other
    }
}

fn dictionary_of(info: &Info) -> Option<CFRetained<CFDictionary<CFString, CFType>>> {
    let Info::Entries(entries) = info else { return None };
    let (mut keys, mut values) = (Vec::new(), Vec::<CFRetained<CFType>>::new());
    for (key, value) in entries {
        values.push(match value {
            Value::Text(text) => CFString::from_str(text).into(),
            Value::Bytes(bytes) => CFData::from_bytes(bytes).into(),
            Value::Integer(number) => CFNumber::new_i64(*number).into(),
            Value::TooLarge | Value::Other => continue,
        });
        keys.push(CFString::from_str(key));
    }
    let keys: Vec<&CFString> = keys.iter().map(|key| &**key).collect();
    let values: Vec<&CFType> = values.iter().map(|value| &**value).collect();
    Some(CFDictionary::from_slices(&keys, &values))
}
