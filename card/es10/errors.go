package es10

import (
	"errors"
	"fmt"

	"github.com/cardbridge/cardbridge/apdu/tlv"
)

// ErrNoISDR says that the card has no ISD-R: it is no eUICC, or one whose ISD-R
// has an AID of its own.
var ErrNoISDR = errors.New("es10: no ISD-R: not an eUICC")

// ErrAnotherCard says that the card has another EID than the one that is meant.
var ErrAnotherCard = errors.New("es10: another card")

// ErrMalformed is matched by every error that says an answer is not of the form
// that SGP.22 gives it.
var ErrMalformed = errors.New("es10: malformed answer")

// What the result codes of SGP.22 §5.7 say; an *Error matches one of them.
var (
	ErrIncorrectInput  = errors.New("incorrect input values")
	ErrNotFound        = errors.New("no such profile")
	ErrState           = errors.New("the profile is not in the state that this leaves")
	ErrPolicy          = errors.New("a profile policy rule forbids it")
	ErrReenabling      = errors.New("another profile is to be enabled after the test profile")
	ErrCATBusy         = errors.New("the card application toolkit is busy")
	ErrNothingToDelete = errors.New("nothing to delete")
	ErrNoResult        = errors.New("no result available")
	ErrUndefined       = errors.New("undefined error")
)

// Error is a function that the eUICC carried out with an error code (SGP.22
// §5.7).
type Error struct {
	Function string // "GetProfilesInfo"
	Code     byte
}

func (e *Error) Error() string {
	if meaning := e.Unwrap(); meaning != nil {
		return fmt.Sprintf("es10: %s: error %d (%s)", e.Function, e.Code, meaning)
	}
	return fmt.Sprintf("es10: %s: error %d", e.Function, e.Code)
}

// Unwrap is what the code says, nil where it is not known.
func (e *Error) Unwrap() error {
	if e.Code == undefined {
		return ErrUndefined
	}
	return codes[e.Function][e.Code]
}

const undefined = 127

// function is one of ES10: what errors call it, and the tag of request and
// response.
type function struct {
	name string
	tag  tlv.Tag
}

var (
	getInfo1              = function{"GetEUICCInfo1", 0xBF20}
	getInfo2              = function{"GetEUICCInfo2", 0xBF22}
	listNotifications     = function{"ListNotification", 0xBF28}
	setNickname           = function{"SetNickname", 0xBF29}
	retrieveNotifications = function{"RetrieveNotificationsList", 0xBF2B}
	getProfilesInfo       = function{"GetProfilesInfo", 0xBF2D}
	removeNotification    = function{"RemoveNotificationFromList", 0xBF30}
	enableProfile         = function{"EnableProfile", 0xBF31}
	disableProfile        = function{"DisableProfile", 0xBF32}
	deleteProfile         = function{"DeleteProfile", 0xBF33}
	memoryReset           = function{"eUICCMemoryReset", 0xBF34}
	getAddresses          = function{"GetEuiccConfiguredAddresses", 0xBF3C}
	getEID                = function{"GetEID", 0xBF3E}
	setDefaultDP          = function{"SetDefaultDpAddress", 0xBF3F}
)

// codes are what a function's result codes say.
var codes = map[string]map[byte]error{
	getProfilesInfo.name:       {1: ErrIncorrectInput},
	enableProfile.name:         {1: ErrNotFound, 2: ErrState, 3: ErrPolicy, 4: ErrReenabling, 5: ErrCATBusy},
	disableProfile.name:        {1: ErrNotFound, 2: ErrState, 3: ErrPolicy, 5: ErrCATBusy},
	deleteProfile.name:         {1: ErrNotFound, 2: ErrState, 3: ErrPolicy},
	setNickname.name:           {1: ErrNotFound},
	memoryReset.name:           {1: ErrNothingToDelete, 5: ErrCATBusy},
	retrieveNotifications.name: {1: ErrNoResult},
	removeNotification.name:    {1: ErrNothingToDelete},
}

// malformed says which function's answer does not parse; an *Error it leaves.
func malformed(f function, err error) error {
	var refused *Error
	if err == nil || errors.As(err, &refused) {
		return err
	}
	return fmt.Errorf("%s: %w: %w", f.name, ErrMalformed, err)
}
