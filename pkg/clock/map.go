package clock

import (
	"reflect"
	"time"
)

var timeType = reflect.TypeFor[time.Time]()

// Map copies v and replaces each moment in its exported fields, lists, maps and pointers. The copy
// shares the values without moments with v.
func Map[T any](v T, replace func(time.Time) time.Time) T {
	out, _ := mapValue(reflect.ValueOf(v), replace).Interface().(T)
	return out
}

func mapValue(v reflect.Value, replace func(time.Time) time.Time) reflect.Value {
	if !v.IsValid() || !holdsTime(v.Type()) {
		return v
	}
	if v.Type() == timeType {
		t, _ := v.Interface().(time.Time)
		return reflect.ValueOf(replace(t))
	}
	out := reflect.New(v.Type()).Elem()
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			out.Set(reflect.New(v.Type().Elem()))
			out.Elem().Set(mapValue(v.Elem(), replace))
		}
	case reflect.Slice:
		if !v.IsNil() {
			out.Set(reflect.MakeSlice(v.Type(), v.Len(), v.Len()))
			for i := range v.Len() {
				out.Index(i).Set(mapValue(v.Index(i), replace))
			}
		}
	case reflect.Map:
		if !v.IsNil() {
			out.Set(reflect.MakeMapWithSize(v.Type(), v.Len()))
			for key, value := range v.Seq2() {
				out.SetMapIndex(key, mapValue(value, replace))
			}
		}
	case reflect.Struct:
		out.Set(v)
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				out.Field(i).Set(mapValue(v.Field(i), replace))
			}
		}
	}
	return out
}

// holdsTime ends because it is called for types that do not contain themselves.
func holdsTime(t reflect.Type) bool {
	if t == timeType {
		return true
	}
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		return holdsTime(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			if f := t.Field(i); f.IsExported() && holdsTime(f.Type) {
				return true
			}
		}
	}
	return false
}
