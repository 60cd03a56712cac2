package clock

import (
	"reflect"
	"sync"
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
	if !v.IsValid() {
		return v
	}
	if v.Type() == timeType {
		t, _ := v.Interface().(time.Time)
		return reflect.ValueOf(replace(t))
	}
	holds := momentsOf(v.Type())
	if !holds.any {
		return v
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
		for _, i := range holds.fields {
			out.Field(i).Set(mapValue(v.Field(i), replace))
		}
	}
	return out
}

// moments says whether a type holds moments, and of a struct in which fields.
type moments struct {
	any    bool
	fields []int
}

// known has the moments of each type that was asked for, since reflection on types is slow.
var known sync.Map // reflect.Type to moments

// momentsOf ends because it is called for types that do not contain themselves.
func momentsOf(t reflect.Type) moments {
	if m, ok := known.Load(t); ok {
		return m.(moments) //nolint:forcetypeassert // nothing else is stored
	}
	m := moments{any: t == timeType}
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		m.any = momentsOf(t.Elem()).any
	case reflect.Struct:
		for i := range t.NumField() {
			if f := t.Field(i); f.IsExported() && momentsOf(f.Type).any {
				m.any, m.fields = true, append(m.fields, i)
			}
		}
	}
	known.Store(t, m)
	return m
}
