package pkcs11

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

var (
	// ErrNotBuilt says that this program was built without PKCS#11.
	ErrNotBuilt = errors.New("built without PKCS#11: build with CGO_ENABLED=1 and a C compiler (Debian: gcc), or take a build that has it")
	// ErrClosed says that the Provider was closed.
	ErrClosed = errors.New("the provider of keys was closed")
	// ErrFault says that a token's value of a private-key operation is none under
	// the public key; it was withheld.
	ErrFault = errors.New("the token's result does not verify under its public key: it was withheld; take the token out of use until you know why")
	// ErrMismatch says that a token has another key than before under one name, or
	// than its own public key object.
	ErrMismatch = errors.New("the key is not the one that it was")
	// ErrPINRefused says that the token refused this very PIN before. It is not
	// tried again: each trial brings the token nearer to locking it.
	ErrPINRefused = errors.New("the token refused this PIN before, and it is not tried again lest it be locked; correct it, and start again")
)

var (
	errLastTrial = errors.New("one more wrong PIN locks it; log in once by hand (pkcs11-tool --login --list-objects), then start again")
	errNoKey     = fmt.Errorf("%w: neither object nor id says which key", ErrURI)
)

// PINRefused reports whether an error says that a token refused a PIN, or that it
// was not asked lest it be locked. Whoever tries again, in a process that does not
// know, brings the token nearer to that.
func PINRefused(err error) bool {
	return refusal(err) || errors.Is(err, ErrPINRefused) || errors.Is(err, errLastTrial)
}

// Error is a call to a PKCS#11 module that failed. It matches Code and Err.
type Error struct {
	Op   string // "log in", "find key", …
	What string // a PKCS#11 URI of key or token, or a module's file
	Code Code   // 0 where the module gave none
	Err  error  // a cause beside Code, or nil
}

func (e *Error) Error() string {
	var s strings.Builder
	fmt.Fprintf(&s, "pkcs11: %s %s", e.Op, e.What)
	if e.Code != 0 {
		s.WriteString(": " + e.Code.Error())
	}
	if e.Err != nil {
		s.WriteString(": " + e.Err.Error())
	}
	return s.String()
}

// Unwrap gives the causes.
func (e *Error) Unwrap() []error {
	var causes []error
	if e.Code != 0 {
		causes = append(causes, e.Code)
	}
	if e.Err != nil {
		causes = append(causes, e.Err)
	}
	return causes
}

// Code is a CK_RV of PKCS#11 that is not CKR_OK.
type Code uint

// Codes that are treated by name.
const (
	CodeGeneralError            Code = 0x05
	CodeFunctionFailed          Code = 0x06
	CodeSlotIDInvalid           Code = 0x03
	CodeAttributeTypeInvalid    Code = 0x12
	CodeDeviceError             Code = 0x30
	CodeDeviceMemory            Code = 0x31
	CodeDeviceRemoved           Code = 0x32
	CodeKeyHandleInvalid        Code = 0x60
	CodeKeyFunctionNotPermitted Code = 0x68
	CodeMechanismInvalid        Code = 0x70
	CodeObjectHandleInvalid     Code = 0x82
	CodePINIncorrect            Code = 0xA0
	CodePINInvalid              Code = 0xA1
	CodePINLenRange             Code = 0xA2
	CodePINExpired              Code = 0xA3
	CodePINLocked               Code = 0xA4
	CodeSessionClosed           Code = 0xB0
	CodeSessionCount            Code = 0xB1
	CodeSessionHandleInvalid    Code = 0xB3
	CodeTokenNotPresent         Code = 0xE0
	CodeTokenNotRecognized      Code = 0xE1
	CodeTokenWriteProtected     Code = 0xE2
	CodeUserAlreadyLoggedIn     Code = 0x100
	CodeUserNotLoggedIn         Code = 0x101
	CodeUserPINNotInitialized   Code = 0x102
	CodeNotInitialized          Code = 0x190
	CodeAlreadyInitialized      Code = 0x191
)

// codes are names, and what to do where that is known.
var codes = map[Code][2]string{
	0x02:                        {"CKR_HOST_MEMORY"},
	CodeSlotIDInvalid:           {"CKR_SLOT_ID_INVALID", "there is no such slot (pkcs11-tool --list-slots)"},
	CodeGeneralError:            {"CKR_GENERAL_ERROR", "the module failed; its own log may say why"},
	CodeFunctionFailed:          {"CKR_FUNCTION_FAILED", "the module failed; its own log may say why"},
	0x07:                        {"CKR_ARGUMENTS_BAD"},
	CodeAttributeTypeInvalid:    {"CKR_ATTRIBUTE_TYPE_INVALID"},
	0x13:                        {"CKR_ATTRIBUTE_VALUE_INVALID"},
	0x20:                        {"CKR_DATA_INVALID"},
	0x21:                        {"CKR_DATA_LEN_RANGE"},
	CodeDeviceError:             {"CKR_DEVICE_ERROR", "the token or its connection failed"},
	CodeDeviceMemory:            {"CKR_DEVICE_MEMORY", "the token has no memory left"},
	CodeDeviceRemoved:           {"CKR_DEVICE_REMOVED", "the token was taken away; put it back"},
	0x40:                        {"CKR_ENCRYPTED_DATA_INVALID"},
	0x41:                        {"CKR_ENCRYPTED_DATA_LEN_RANGE"},
	0x54:                        {"CKR_FUNCTION_NOT_SUPPORTED"},
	CodeKeyHandleInvalid:        {"CKR_KEY_HANDLE_INVALID"},
	CodeKeyFunctionNotPermitted: {"CKR_KEY_FUNCTION_NOT_PERMITTED", "the key may neither sign nor decrypt (CKA_SIGN, CKA_DECRYPT)"},
	CodeMechanismInvalid:        {"CKR_MECHANISM_INVALID", "the token does not do raw RSA (CKM_RSA_X_509); allow the mechanism in its policy"},
	CodeObjectHandleInvalid:     {"CKR_OBJECT_HANDLE_INVALID"},
	0x90:                        {"CKR_OPERATION_ACTIVE"},
	0x91:                        {"CKR_OPERATION_NOT_INITIALIZED"},
	CodePINIncorrect:            {"CKR_PIN_INCORRECT", "the PIN is wrong"},
	CodePINInvalid:              {"CKR_PIN_INVALID", "the PIN has characters that the token does not take"},
	CodePINLenRange:             {"CKR_PIN_LEN_RANGE", "the PIN is too short or too long"},
	CodePINExpired:              {"CKR_PIN_EXPIRED", "the PIN has expired; set a new one with the token's own tool"},
	CodePINLocked:               {"CKR_PIN_LOCKED", "too many wrong PINs; the security officer unlocks it (pkcs11-tool --init-pin)"},
	CodeSessionClosed:           {"CKR_SESSION_CLOSED"},
	CodeSessionCount:            {"CKR_SESSION_COUNT", "the token has no session left; end other programs that use it"},
	CodeSessionHandleInvalid:    {"CKR_SESSION_HANDLE_INVALID"},
	0xB5:                        {"CKR_SESSION_READ_ONLY"},
	0xD0:                        {"CKR_TEMPLATE_INCOMPLETE"},
	0xD1:                        {"CKR_TEMPLATE_INCONSISTENT"},
	CodeTokenNotPresent:         {"CKR_TOKEN_NOT_PRESENT", "there is no such token; put it in, or correct the URI (pkcs11-tool --list-token-slots)"},
	CodeTokenNotRecognized:      {"CKR_TOKEN_NOT_RECOGNIZED", "the token is not initialised, or of another kind (pkcs11-tool --init-token)"},
	CodeTokenWriteProtected:     {"CKR_TOKEN_WRITE_PROTECTED"},
	CodeUserAlreadyLoggedIn:     {"CKR_USER_ALREADY_LOGGED_IN"},
	CodeUserNotLoggedIn:         {"CKR_USER_NOT_LOGGED_IN"},
	CodeUserPINNotInitialized:   {"CKR_USER_PIN_NOT_INITIALIZED", "the token has no user PIN yet (pkcs11-tool --init-pin)"},
	0x103:                       {"CKR_USER_TYPE_INVALID"},
	0x104:                       {"CKR_USER_ANOTHER_ALREADY_LOGGED_IN", "somebody else is logged in to the token"},
	CodeNotInitialized:          {"CKR_CRYPTOKI_NOT_INITIALIZED"},
	CodeAlreadyInitialized:      {"CKR_CRYPTOKI_ALREADY_INITIALIZED"},
}

func (c Code) Error() string {
	switch e, ok := codes[c]; {
	case !ok:
		return fmt.Sprintf("CKR 0x%08X", uint(c))
	case e[1] != "":
		return e[0] + ", " + e[1]
	default:
		return e[0]
	}
}

// stale reports whether a session, and what is known of its token, is of no use
// any more: a new one may be.
func stale(err error) bool {
	return gone(err) || has(err, CodeSessionHandleInvalid, CodeSessionClosed, CodeObjectHandleInvalid, CodeKeyHandleInvalid, CodeUserNotLoggedIn)
}

// gone reports whether the token is away, or the module's view of it is of no use.
func gone(err error) bool {
	return has(err, CodeDeviceRemoved, CodeDeviceError, CodeTokenNotPresent, CodeTokenNotRecognized, CodeSlotIDInvalid, CodeNotInitialized)
}

// refusal reports whether the token refused a PIN, and would refuse it again.
func refusal(err error) bool {
	return has(err, CodePINIncorrect, CodePINInvalid, CodePINLenRange, CodePINExpired, CodePINLocked)
}

func has(err error, codes ...Code) bool {
	var code Code
	return errors.As(err, &code) && slices.Contains(codes, code)
}
