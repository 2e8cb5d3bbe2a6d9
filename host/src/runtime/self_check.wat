;; What the host's own limits have to stop. Built by build.rs.
(component
  (core module $module
    (memory (export "memory") 1)
    (table 1 funcref)
    ;; Never ends.
    (func (export "spin") (loop $again (br $again)))
    ;; Takes so many pages more, and says whether it got them.
    (func (export "grow") (param $pages i32) (result i32)
      (i32.ne (memory.grow (local.get $pages)) (i32.const -1)))
    ;; Takes so many elements more, and says whether it got them.
    (func (export "extend") (param $elements i32) (result i32)
      (i32.ne (table.grow (ref.null func) (local.get $elements)) (i32.const -1)))
    ;; Calls itself.
    (func $recurse (export "recurse") (call $recurse) (call $recurse)))
  (core instance $instance (instantiate $module))
  (func (export "spin") (canon lift (core func $instance "spin")))
  (func (export "grow") (param "pages" u32) (result bool) (canon lift (core func $instance "grow")))
  (func (export "extend") (param "elements" u32) (result bool) (canon lift (core func $instance "extend")))
  (func (export "recurse") (canon lift (core func $instance "recurse"))))
