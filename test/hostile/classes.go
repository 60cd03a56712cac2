package main

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// parseLimitTime bounds a call that reads a class of some 400 KiB, on a busy machine.
const parseLimitTime = 10 * time.Second

func classAttacks() []attack {
	return []attack{
		{
			name: "yaml-bombs", does: "classes whose objects are YAML merges and aliases that multiply", servers: 1, after: later,
			run: yamlBombs,
			judge: func(s *scene) verdict {
				return throughIf(s.slowest > parseLimitTime, "slowest call %s", s.slowest.Round(time.Millisecond))
			},
		},
		{
			name: "template-bombs", does: "classes whose templates never end or double a text 40 times, in new volumes and in live ones that refresh every second", servers: 1, after: later,
			run: templateBombs,
			judge: func(s *scene) verdict {
				return throughIf(s.slowest > parseLimitTime, "slowest call %s", s.slowest.Round(time.Millisecond))
			},
		},
		{
			name: "class-edits", does: "a class of 1 MiB, edited every second", servers: 1,
			run:   classEdits,
			judge: func(s *scene) verdict { return held("%d edits", s.count("edits")) },
		},
		{
			name: "missing-classes", does: "30 pods that name classes which do not exist", servers: 1,
			run: func(ctx context.Context, s *scene) {
				for i := range 30 {
					s.mount(ctx, s.podsOf(s.name("none", i), 1, false)...)
				}
			},
		},
		{
			name: "deep-names", does: "file names of 1,900 directories, and a volumeInodeLimit of a million", servers: 1, after: later,
			run: deepNames,
			judge: func(s *scene) verdict {
				const most = 40_000 // some 40 MiB of the kernel's memory
				return throughIf(s.peakFiles > most, "%d files and directories in its volumes at most", s.peakFiles)
			},
		},
		{
			name: "big-classes", does: "72 volumes of a class of 1 MiB, of which each volume has a record", servers: 1, after: later,
			run: func(ctx context.Context, s *scene) {
				s.put(s.name(), s.parameters(0, oneObject, "refreshInterval", "1m", "note", strings.Repeat("x", 1<<20)))
				s.mount(ctx, s.podsOf(s.name(), 72, false)...)
			},
			judge: judgeState,
		},
		{
			name: "many-objects", does: "a class that asks for 8,000 secrets every second", servers: 1, after: later,
			run: func(ctx context.Context, s *scene) {
				s.put(s.name(), s.parameters(0, objects(8_000, ""), "volumeInodeLimit", "100000"))
				s.mount(ctx, s.podsOf(s.name(), 2, true)...)
			},
		},
		{
			name: "unknown-words", does: "classes of 2,000 unknown parameters, edited, and answers with 2,000 warnings, to fill the log", servers: 1,
			prepare: warnings, run: unknownWords,
			judge: func(s *scene) verdict {
				size, lines := s.log.ofEvil()
				const most = 16 << 20
				return throughIf(s.perMinute(size) > most, "the driver logs %s a minute for all attacks together (%d lines in all)", mib(s.perMinute(size)), lines)
			},
		},
	}
}

// yamlBombs makes three classes of less than 1 MiB.
func yamlBombs(ctx context.Context, s *scene) {
	const keys, objects = 6000, 200
	var merge, alias, args strings.Builder
	merge.WriteString("- &a\n")
	for i := range keys {
		fmt.Fprintf(&merge, "  k%d: v\n", i)
	}
	merge.WriteString(strings.Repeat("- <<: *a\n", objects))
	alias.WriteString("- &l0 {objectName: a, secretPath: kv1/a, secretKey: k}\n")
	for i := 1; i < 12; i++ {
		fmt.Fprintf(&alias, "- &l%d [%s]\n", i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*l%d, ", i-1), 12), ", "))
	}
	args.WriteString("- {objectName: a, secretPath: kv1/a, secretKey: k, secretArgs: &m {")
	for i := range keys {
		fmt.Fprintf(&args, "k%d: v, ", i)
	}
	args.WriteString("z: z}}\n")
	for i := range objects {
		fmt.Fprintf(&args, "- {objectName: b%d, secretPath: kv1/a, secretKey: k, secretArgs: {<<: [*m, *m, *m, *m]}}\n", i)
	}
	for i, bomb := range []string{merge.String(), alias.String(), args.String()} {
		class := s.name(i)
		s.put(class, s.parameters(0, bomb))
		s.mount(ctx, s.podsOf(class, 2, false)...)
	}
}

// templateBombs mounts pods of classes with bombs, and edits a bomb into a class of live volumes.
func templateBombs(ctx context.Context, s *scene) {
	bombs := []string{
		`{{ range 1000000000000 }}{{ end }}`,
		`{{ $x := .a }}` + strings.Repeat(`{{ $x = print $x $x "x" }}`, 40),
		`{{ range 1000000 }}{{ $x := splitList "" (repeat 1000000 "x") }}{{ end }}`,
		`{{ repeat 1000000000000 .a }}`,
	}
	with := func(bomb string) map[string]string {
		return s.parameters(0, oneObject, "templates", fmt.Sprintf("[{fileName: b, text: '%s'}]", bomb))
	}
	live := s.name("live")
	s.put(live, s.parameters(0, oneObject))
	s.mount(ctx, s.podsOf(live, 4, false)...)
	s.awaitMounted(ctx, parseLimitTime)
	for i, bomb := range bombs {
		class := s.name(i)
		s.put(class, with(bomb))
		s.mount(ctx, s.podsOf(class, 4, false)...)
	}
	for i := 0; pause(ctx, time.Second); i++ {
		s.put(live, with(bombs[i%len(bombs)]))
	}
}

func classEdits(ctx context.Context, s *scene) {
	note := strings.Repeat("x", 900<<10)
	parameters := func() map[string]string {
		return s.parameters(0, oneObject, "refreshInterval", "1m", "note", fmt.Sprint(s.add("edits", 1))+note)
	}
	s.put(s.name(), parameters())
	s.mount(ctx, s.podsOf(s.name(), 2, false)...)
	for pause(ctx, time.Second) {
		s.put(s.name(), parameters())
	}
}

func deepNames(ctx context.Context, s *scene) {
	var objects strings.Builder
	for i := range 40 {
		fmt.Fprintf(&objects, "- {objectName: %d/%sf, secretPath: kv1/a, secretKey: k}\n", i, strings.Repeat("d/", 1900))
	}
	s.put(s.name(), s.parameters(0, objects.String(), "volumeInodeLimit", "1000000", "volumeSizeLimit", "256Mi"))
	s.mount(ctx, s.podsOf(s.name(), 3, false)...)
}

// warnings answers with a store's warnings.
func warnings(s *scene) error {
	var list []string
	for i := range 2000 {
		list = append(list, fmt.Sprintf("%q", fmt.Sprintf("warning %d %s", i, strings.Repeat("w", 500))))
	}
	body := `{"request_id":"1","data":{"k":"v"},"warnings":[` + strings.Join(list, ",") + `]}`
	s.servers[0].read = answering(200, body)
	return nil
}

func unknownWords(ctx context.Context, s *scene) {
	put := func() {
		more := []string{"edit", fmt.Sprint(s.add("edits", 1))}
		for i := range 2000 {
			more = append(more, fmt.Sprintf("unknownParameter%d%s", i, strings.Repeat("p", 100)), "x")
		}
		s.put(s.name(), s.parameters(0, oneObject, more...))
	}
	put()
	s.mount(ctx, s.podsOf(s.name(), 4, false)...)
	for pause(ctx, 2*time.Second) {
		put()
	}
}
